// How a live chart looks: Plotly traces and layout as pure functions of the data and the theme.

import { pickColor, withOpacity } from './theme.js'

const FEW_POINTS = 40 // curves with at most this many points get markers

export const CONFIG = {
  displaylogo: false,
  responsive: false, // the ResizeObserver also sees a folding sidebar
  scrollZoom: false,
  doubleClick: 'reset+autosize',
  // Plotly's default set has a button that uploads the chart.
  modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']],
  toImageButtonOptions: { scale: 2 },
}
const TIME_FORMATS = [
  { dtickrange: [null, 59_999], value: '%H:%M:%S' },
  { dtickrange: [60_000, 86_399_999], value: '%H:%M' },
  { dtickrange: [86_400_000, null], value: '%b %-d' },
]
const TICK_FORMATS = { ratio: '.0~%', B: '.3~s', '%': '.3~g' }
const HOVER_FORMATS = { ratio: '.2%', B: '.4~s', '%': '.1f' }
const SUFFIXES = { ratio: '', B: 'B', '%': ' %' }

/** Build the traces of one curve: its ghosts, its main line, and the moving average of a smooth curve. */
export function buildTraces(curve, { data, theme, hidden }) {
  const { spec } = curve
  const uid = toPlainId(spec.id)
  const color = pickColor(theme, spec.color)
  const visible = !hidden.has(spec.id)
  const base = { type: 'scatter', connectgaps: false, visible, name: spec.label, showlegend: false }
  const few = curve.main.x.length <= FEW_POINTS
  const hover = `%{y:${HOVER_FORMATS[data.unit] ?? '.5~g'}}${SUFFIXES[data.unit] ?? (data.unit ? ` ${data.unit}` : '')}`
  const line = (width, opacity) => ({ width, color: opacity < 1 ? withOpacity(color, opacity) : color, simplify: true })
  const traces = [
    {
      ...base,
      ...curve.ghosts,
      uid: `${uid}-ghosts`,
      mode: 'lines',
      line: line(1.25, 0.3),
      hoverinfo: 'skip',
    },
    {
      ...base,
      ...curve.main,
      uid,
      mode: few ? 'lines+markers' : 'lines',
      line: line(spec.smooth ? 1 : 1.75, spec.smooth ? 0.35 : 1),
      marker: { size: 5, color },
      hovertemplate: hover,
    },
  ]
  if (spec.smooth) {
    traces.push({
      ...base,
      ...curve.smoothed,
      uid: `${uid}-smoothed`,
      name: `${spec.label}, smoothed`,
      mode: 'lines',
      line: line(2, 1),
      hovertemplate: hover,
    })
  }
  return traces
}

/** Build axes, colors and mouse behavior. `width` is in pixels; a new `revision` makes Plotly compare the data again. */
export function buildLayout({ data, theme, curves, width, revision }) {
  const font = { family: theme.font, size: 12, color: theme.quiet }
  const axis = {
    gridcolor: withOpacity(theme.line, 0.7),
    zeroline: false,
    linecolor: theme.line,
    tickcolor: theme.line,
    tickfont: font,
    automargin: true,
    fixedrange: false,
  }
  const [low, high] = data.y_range ?? [null, null]
  // Plotly loses a half-open range when the chart is resized, so use its rangemode instead.
  const fromZero = low === 0 && high === null
  const bounded = !fromZero && (low !== null || high !== null)
  const unit = data.unit
  return {
    datarevision: revision, // curves grow in place, which Plotly would not notice
    uirevision: data.axis,
    height: data.height,
    margin: { l: 48, r: 12, t: 8, b: 32 },
    paper_bgcolor: 'rgba(0, 0, 0, 0)',
    plot_bgcolor: 'rgba(0, 0, 0, 0)',
    font,
    showlegend: false,
    dragmode: 'zoom',
    hovermode: 'x unified',
    hoverlabel: { bgcolor: theme.raised, bordercolor: theme.line, font: { ...font, color: theme.text } },
    xaxis: {
      ...axis,
      type: data.axis === 'time' ? 'date' : 'linear',
      showgrid: false,
      hoverformat: data.axis === 'time' ? '%b %-d, %H:%M:%S' : ',d',
      ...(data.axis === 'time' ? { tickformatstops: TIME_FORMATS } : { tickformat: ',d' }),
      nticks: Math.max(2, Math.min(9, Math.floor(width / 80))),
      dtick: data.axis === 'step' && curves.every(({ main: { x } }) => !x.length || x[x.length - 1] - x[0] < 8) ? 1 : undefined,
      tickangle: 0,
      unifiedhovertitle: data.axis === 'time' ? undefined : { text: 'step %{x}' },
    },
    yaxis: {
      ...axis,
      type: 'linear',
      tickformat: TICK_FORMATS[unit],
      ticksuffix: SUFFIXES[unit] ?? (unit ? ` ${unit}` : ''),
      nticks: 6,
      rangemode: fromZero ? 'tozero' : 'normal',
      range: bounded ? [low, high] : undefined,
      autorange: bounded ? (low === null ? 'min' : high === null ? 'max' : false) : true,
    },
  }
}

/** Encode an id with letters, digits and underscores only: Plotly puts a trace's uid into a CSS selector. */
function toPlainId(id) {
  return `c${[...id].map((character) => (/[A-Za-z0-9]/.test(character) ? character : `_${character.codePointAt(0)}`)).join('')}`
}
