// The page's colors and fonts, from the CSS variables that Streamlit sets on every component.

const NAMED = ['red', 'orange', 'yellow', 'blue', 'green', 'violet', 'gray']

/** Read the current theme at `element`. Its `signature` changes whenever the theme does. */
export function readTheme(element) {
  const style = getComputedStyle(element)
  const read = (name, otherwise) => {
    const value = style.getPropertyValue(name).trim()
    return value && value !== 'unset' ? value : otherwise
  }
  const text = read('--st-text-color', '#31333f')
  const theme = {
    text,
    quiet: read('--st-gray-text-color', text),
    background: read('--st-background-color', '#ffffff'),
    raised: read('--st-secondary-background-color', '#f5f7fa'),
    line: read('--st-border-color', 'rgba(128, 128, 128, 0.25)'),
    font: read('--st-font', 'sans-serif'),
    primary: read('--st-primary-color', '#4353e0'),
    chart: read('--st-chart-categorical-colors', '#4353e0,#e07b00,#059669,#db2777,#0284c7').split(',').map((c) => c.trim()),
    named: Object.fromEntries(NAMED.map((name) => [name, read(`--st-${name}-color`, '#888888')])),
  }
  theme.signature = JSON.stringify(theme)
  return theme
}

/** Return the color for a value of `LiveSeries.color` in chart.py. */
export function pickColor(theme, token) {
  const numbered = /^chart(\d+)$/.exec(token)
  if (numbered) return theme.chart[(Number(numbered[1]) - 1) % theme.chart.length]
  if (token === 'primary') return theme.primary
  return theme.named[token] ?? token
}

/** Return `color` with another opacity. */
export function withOpacity(color, opacity) {
  const hex = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(color)
  if (!hex) return color
  return `rgba(${hex.slice(1).map((part) => parseInt(part, 16)).join(', ')}, ${opacity})`
}
