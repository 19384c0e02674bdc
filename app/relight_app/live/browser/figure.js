// How a chart looks: Plotly traces and layout as pure functions of the data, the settings and the theme.

import { lowerBound } from './curve.js'
import { pickColor, withOpacity } from './theme.js'

const FEW_POINTS = 40 // curves with at most this many points get markers
const OUTLIER_SHARE = 0.05 // on each side

export const CONFIG = {
  displaylogo: false,
  responsive: false, // the ResizeObserver also sees a folding sidebar
  scrollZoom: false,
  doubleClick: 'reset+autosize',
  // Plotly's default set has a button that uploads the chart.
  modeBarButtons: [['zoom2d', 'pan2d', 'resetScale2d']],
}
const TIME_FORMATS = [
  { dtickrange: [null, 59_999], value: '%H:%M:%S' },
  { dtickrange: [60_000, 86_399_999], value: '%H:%M' },
  { dtickrange: [86_400_000, null], value: '%b %-d' },
]
const TICK_FORMATS = { ratio: '.0~%', B: '.3~s', '%': '.3~g' }
const HOVER_FORMATS = { ratio: '.2%', B: '.4~s', '%': '.1f' }
const SUFFIXES = { ratio: '', B: 'B', '%': ' %' }

/** Return the chart's unit; a share that was logged in percent, or leaves 0 to 1, is an ordinary number. */
export function findUnit(unit, curves) {
  return unit === 'ratio' && curves.some(({ main }) => main.y.some((y) => y > 1 || y < 0)) ? null : unit
}

/**
 * Build the traces of one curve: the parent's curve behind it, its ghosts, its main line, and its moving average. `now`
 * is the step of a run that trains steps again: what lies after it is about to be replaced, so it is drawn as ghost.
 */
export function buildTraces(curve, { axis, theme, hidden, unit, now = Infinity, origin }) {
  const { spec } = curve
  const uid = toPlainId(spec.id)
  const color = pickColor(theme, spec.color)
  const visible = !hidden.has(spec.id)
  const base = { type: 'scatter', connectgaps: false, visible, name: escapeText(spec.label), showlegend: false }
  const hover = `%{y:${HOVER_FORMATS[unit] ?? '.5~g'}}${SUFFIXES[unit] ?? (unit ? ` ${unit}` : '')}`
  const line = (width, opacity, dash) => ({ width, color: withOpacity(color, opacity), simplify: true, dash })
  const map = ({ x, y }) => ({ x: axis.mode === 'step' ? x : x.map(axis.to), y })
  const [main, pending] = splitAt(curve.main, now)
  const [smoothed] = splitAt(curve.smoothed, now)
  const averaged = smoothed.x.length > 0
  const few = main.x.length <= FEW_POINTS
  const traces = []
  if (origin) {
    traces.push({
      ...base,
      ...map(origin),
      uid: `${uid}-origin`,
      mode: 'lines',
      line: line(1.5, 0.45, 'dot'),
      hoverinfo: 'skip',
    })
  }
  traces.push(
    {
      ...base,
      ...map(join(curve.ghosts, pending)),
      uid: `${uid}-ghosts`,
      mode: 'lines',
      line: line(1.25, 0.3),
      hoverinfo: 'skip',
    },
    {
      ...base,
      ...map(main),
      uid,
      mode: few ? 'lines+markers' : 'lines',
      line: line(averaged ? 1 : 1.75, averaged ? 0.35 : 1),
      marker: { size: 4, color: withOpacity(color, averaged ? 0.35 : 1) },
      hovertemplate: hover,
    },
  )
  if (averaged) {
    traces.push({
      ...base,
      ...map(smoothed),
      uid: `${uid}-smoothed`,
      name: `${escapeText(spec.label)}, smoothed`,
      mode: 'lines',
      line: line(2, 1),
      hovertemplate: hover,
    })
  }
  return traces
}

/** Build axes, colors and mouse behavior. `width` is in pixels; a new `revision` makes Plotly compare the data again. */
export function buildLayout({ plan, axis, settings, unit, theme, curves, hidden, height, width, revision, shapes, range, times }) {
  const font = { family: theme.font, size: 12, color: theme.quiet }
  const common = {
    gridcolor: withOpacity(theme.line, 0.7),
    zeroline: false,
    linecolor: theme.line,
    tickcolor: theme.line,
    tickfont: font,
    automargin: true,
    fixedrange: false,
  }
  const wall = axis.mode === 'wall'
  const byStep = axis.mode === 'step'
  const logX = settings.logX && !wall
  const shownCurves = curves.filter(({ spec }) => !hidden.has(spec.id))
  return {
    datarevision: revision, // curves grow in place, which Plotly would not notice
    uirevision: 'same',
    height,
    margin: { l: 48, r: 12, t: 14, b: 32 },
    paper_bgcolor: 'rgba(0, 0, 0, 0)',
    plot_bgcolor: 'rgba(0, 0, 0, 0)',
    font,
    showlegend: false,
    dragmode: 'zoom',
    hovermode: 'x unified',
    hoverlabel: { bgcolor: theme.raised, bordercolor: theme.line, font: { ...font, color: theme.text }, namelength: 40 },
    modebar: { bgcolor: 'rgba(0, 0, 0, 0)', color: theme.quiet, activecolor: theme.text },
    shapes,
    xaxis: {
      ...common,
      uirevision: `${axis.mode} ${logX}`,
      type: wall ? 'date' : logX ? 'log' : 'linear',
      showgrid: false,
      hoverformat: wall ? '%b %-d, %H:%M:%S' : byStep ? ',d' : '.4~g',
      ...(wall ? { tickformatstops: TIME_FORMATS } : { tickformat: byStep ? (logX ? '~s' : ',d') : '' }),
      ...(logX ? { dtick: 1 } : {}),
      ticksuffix: axis.unit ? ` ${axis.unit}` : '',
      nticks: Math.max(2, Math.min(9, Math.floor(width / (wall ? 90 : 55)))),
      ...(byStep && !logX && curves.every(({ main: { x } }) => !x.length || x[x.length - 1] - x[0] < 8) ? { dtick: 1 } : {}),
      tickangle: 0,
      unifiedhovertitle: byStep ? { text: 'step %{x}' } : axis.mode === 'epoch' ? { text: 'epoch %{x}' } : undefined,
      // All charts of the machine show the whole run, so that they can be compared.
      ...(plan.by_time && times.end > times.begin ? { range: [axis.to(times.begin), axis.to(times.end)] } : { autorange: true }),
    },
    yaxis: { ...common, ...buildValueAxis({ plan, settings, unit, curves: shownCurves, range }) },
  }
}

function buildValueAxis({ plan, settings, unit, curves, range }) {
  const [low, high] = plan.y_range ?? [null, null]
  // Plotly loses a half-open range when the chart is resized, so use its rangemode instead.
  const fromZero = low === 0 && high === null
  const bounded = !fromZero && (low !== null || high !== null)
  const axis = {
    uirevision: `${settings.logY} ${settings.outliers}`,
    type: settings.logY ? 'log' : 'linear',
    tickformat: settings.logY && !unit ? '.3~g' : TICK_FORMATS[unit],
    exponentformat: 'e',
    ticksuffix: SUFFIXES[unit] ?? (unit ? ` ${unit}` : ''),
    nticks: 6,
    rangemode: fromZero ? 'tozero' : 'normal',
  }
  const inner = settings.outliers ? findInnerRange(curves, range, settings.logY) : null
  if (inner) return { ...axis, range: inner, autorange: false }
  if (!bounded || settings.logY) return { ...axis, autorange: true }
  return { ...axis, range: [low, high], autorange: low === null ? 'min' : high === null ? 'max' : false }
}

/** Return the range of the values without the highest and the lowest ones; null without values. */
function findInnerRange(curves, range, log) {
  const values = curves.flatMap(({ main: { x, y } }) => {
    const [from, to] = range ? [lowerBound(x, range[0]), lowerBound(x, range[1])] : [0, x.length]
    const within = y.slice(from, to).filter((value) => Number.isFinite(value) && (!log || value > 0))
    return log ? within.map(Math.log10) : within
  })
  if (values.length < 5) return null
  values.sort((a, b) => a - b)
  const low = values[Math.floor(OUTLIER_SHARE * (values.length - 1))]
  const high = values[Math.ceil((1 - OUTLIER_SHARE) * (values.length - 1))]
  if (!(high > low)) return null
  const margin = 0.08 * (high - low)
  return [low - margin, high + margin]
}

/** Split a line at a step: what was trained up to it, and what an earlier attempt had trained after it. */
function splitAt(line, now) {
  const { x, y } = line
  if (!x.length || x[x.length - 1] <= now) return [line, { x: [], y: [] }]
  const place = lowerBound(x, now + 0.5)
  const from = Math.max(0, place - 1)
  return [
    { x: x.slice(0, place), y: y.slice(0, place) },
    { x: x.slice(from), y: y.slice(from) },
  ]
}

function join(first, second) {
  if (!second.x.length) return first
  return { x: [...first.x, second.x[0], ...second.x], y: [...first.y, NaN, ...second.y] }
}

/** Escape text for Plotly, which understands some HTML, and entities. */
export function escapeText(text) {
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/\$/g, '&#36;')
}

/** Encode an id with letters, digits and underscores only: Plotly puts a trace's uid into a CSS selector. */
function toPlainId(id) {
  return `c${[...id].map((character) => (/[A-Za-z0-9]/.test(character) ? character : `_${character.codePointAt(0)}`)).join('')}`
}
