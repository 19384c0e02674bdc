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

/** Return the color for a value of `LiveSeries.color` in charts.py. */
export function pickColor(theme, token) {
  const numbered = /^chart(\d+)$/.exec(token)
  if (numbered) return theme.chart[Number(numbered[1]) - 1] ?? makeColor(Number(numbered[1]), theme)
  if (token === 'primary') return theme.primary
  return theme.named[token] ?? token
}

/** Make one more color than the theme has: hues by the golden angle, so that any number of them stays distinct. */
function makeColor(number, theme) {
  const hue = (number * 137.508) % 360
  const dark = luminance(theme.background) < 0.5
  const lightness = (dark ? [0.68, 0.8, 0.58] : [0.42, 0.32, 0.52])[number % 3]
  const saturation = 0.62
  const reach = saturation * Math.min(lightness, 1 - lightness)
  const channel = (n) => {
    const k = (n + hue / 30) % 12
    return Math.round(255 * (lightness - reach * Math.max(-1, Math.min(k - 3, 9 - k, 1))))
  }
  return `#${[0, 8, 4].map((n) => channel(n).toString(16).padStart(2, '0')).join('')}`
}

function luminance(color) {
  const hex = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(color)
  return hex ? hex.slice(1).reduce((sum, part) => sum + parseInt(part, 16), 0) / 765 : 1
}

/** Return `color` with another opacity. */
export function withOpacity(color, opacity) {
  const hex = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(color)
  if (!hex) return color
  return `rgba(${hex.slice(1).map((part) => parseInt(part, 16)).join(', ')}, ${opacity})`
}
