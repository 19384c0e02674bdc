// The live chart: Plotly, patched in place. Zoom and hover survive new rows, reruns of the page and a change of theme.

import { Curve } from './curve.js'
import { CONFIG, buildLayout, buildTraces } from './figure.js'
import { formatWithUnit } from './format.js'
import { HistoryError, readHistory } from './history.js'
import { subscribe } from './stream.js'
import { pickColor, readTheme } from './theme.js'

const POINTS = 1500
const DRAW_EVERY_MS = 80
const DRAW_SHARE = 4 // a chart that takes 50 ms to draw is drawn every 200 ms at most
const RELOAD_SOON_MS = 150
const RELOAD_LATER_MS = 3000
const RELOAD_AFTER_FAILURE_MS = 2000

const charts = new WeakMap()
let plotly = null

/** Draw or update the chart of this component; called again whenever its data or the theme changes. */
export function show({ data, parentElement }) {
  let chart = charts.get(parentElement)
  if (!chart) charts.set(parentElement, (chart = new Chart(parentElement.querySelector('.relight-chart'))))
  chart.update(data)
}

/** Take the chart away. */
export function remove({ parentElement }) {
  charts.get(parentElement)?.remove()
  charts.delete(parentElement)
}

function loadPlotly(address) {
  plotly ??= new Promise((resolve, reject) => {
    const script = document.createElement('script')
    script.src = address
    script.onload = () => resolve(window.Plotly)
    script.onerror = () => {
      plotly = null
      script.remove()
      reject(new Error('Plotly.js could not be loaded'))
    }
    document.head.appendChild(script)
  })
  return plotly
}

class Chart {
  constructor(element) {
    this.element = element
    this.head = element.querySelector('.relight-chart-head')
    this.title = element.querySelector('.relight-chart-title')
    this.legend = element.querySelector('.relight-chart-legend')
    this.plot = element.querySelector('.relight-chart-plot')
    this.note = element.querySelector('.relight-chart-note')
    this.curves = []
    this.sources = new Map() // by run: {positions, waiting, loading, loaded}
    this.range = null
    this.hidden = new Set()
    this.visible = true
    this.dirty = false
    this.drawnAt = 0
    this.drawMs = 0
    this.revision = 0
    this.failed = false
    this.removed = false
    this.unsubscribe = () => {}
    // Plotly resizes a moment later and refuses when the page was left by then; there is nothing to resize then.
    this.resizes = new ResizeObserver(
      () => this.plotted && this.plot.clientWidth && this.Plotly.Plots.resize(this.plot).catch(() => {}),
    )
    this.resizes.observe(this.plot)
    this.sights = new IntersectionObserver((entries) => {
      this.visible = entries[entries.length - 1].isIntersecting
      if (this.visible && this.dirty) this.draw()
    })
    this.sights.observe(this.plot)
  }

  /** Python's data, or the theme, changed. */
  update(data) {
    const before = this.data
    this.data = data
    this.plot.style.height = `${data.height}px`
    this.title.textContent = data.title
    const theme = readTheme(this.element)
    const themed = theme.signature !== this.theme?.signature
    this.theme = theme
    if (JSON.stringify(before?.series) !== JSON.stringify(data.series) || before?.axis !== data.axis) {
      if (before && before.axis !== data.axis) this.range = null
      this.subscribeTo(data)
    } else if (themed || JSON.stringify(before) !== JSON.stringify(data)) {
      this.changed()
    }
    loadPlotly(data.plotly).then(
      (Plotly) => {
        this.Plotly = Plotly
        this.changed()
      },
      () => this.say('The chart could not be loaded. Reload the page.'),
    )
  }

  remove() {
    this.removed = true
    this.unsubscribe()
    this.resizes.disconnect()
    this.sights.disconnect()
    for (const source of this.sources.values()) this.drop(source)
    if (this.plotted) this.Plotly.purge(this.plot)
  }

  subscribeTo(data) {
    this.unsubscribe()
    for (const source of this.sources.values()) this.drop(source)
    const kept = new Map(this.curves.map((curve) => [curve.spec.id, curve]))
    this.curves = data.series.map((spec) => {
      const curve = kept.get(spec.id) ?? new Curve(spec)
      curve.spec = spec
      return curve
    })
    this.hidden = new Set([...this.hidden].filter((id) => this.curves.some((curve) => curve.spec.id === id)))
    const watch = {}
    this.sources = new Map()
    for (const { run, stream } of data.series) {
      if (!this.sources.has(run)) {
        this.sources.set(run, { run, positions: {}, waiting: [], loading: null, loaded: false, timer: 0 })
        watch[run] = []
      }
      if (!watch[run].includes(stream)) watch[run].push(stream)
    }
    for (const source of this.sources.values()) this.load(source)
    this.unsubscribe = subscribe({
      watch,
      onRows: (rows) => this.take(rows),
      onHello: (hello) => this.compare(hello),
      onReset: ({ run }) => this.reload(this.sources.get(run), 0),
      onGone: ({ run }) => this.lose(run),
      onConnection: (connection) => (this.element.dataset.connection = connection),
    })
  }

  // --- history -------------------------------------------------------------------------------------------------------

  async load(source) {
    clearTimeout(source.timer)
    source.timer = 0
    source.loading?.abort()
    const loading = new AbortController()
    source.loading = loading
    const mine = this.curves.filter((curve) => curve.spec.run === source.run)
    const names = [...new Set(mine.map((curve) => curve.spec.name))]
    const smooth = mine.filter((curve) => curve.spec.kind === 'raw+smooth').map((curve) => curve.spec.name)
    try {
      const { axis } = this.data
      const range = this.range && axis === 'time' ? this.range.map(fromLocal) : this.range
      const history = await readHistory(source.run, {
        names,
        smooth,
        axis,
        points: POINTS,
        window: range,
        signal: loading.signal,
      })
      if (source.loading !== loading) return
      for (const curve of mine) {
        const filled = history.series[curve.spec.name]
        if (axis === 'time') for (const part of ['main', 'smoothed', 'ghosts']) filled[part].x = filled[part].x.map(toLocal)
        curve.fill(filled)
      }
      source.positions = history.positions
      source.loaded = true
      this.failed = false
    } catch (error) {
      if (source.loading !== loading || error.name === 'AbortError') return
      source.loading = null
      if (error instanceof HistoryError && error.gone) {
        this.lose(source.run)
        return
      }
      this.failed = true
      this.changed()
      this.reload(source, RELOAD_AFTER_FAILURE_MS)
      return
    }
    source.loading = null
    const waiting = source.waiting
    source.waiting = []
    waiting.forEach((rows) => this.take(rows))
    this.changed()
  }

  /** Read the history again within `ms`. */
  reload(source, ms) {
    if (!source || this.removed) return
    if (source.timer && ms > 0) return
    clearTimeout(source.timer)
    source.timer = setTimeout(() => this.load(source), ms)
  }

  drop(source) {
    clearTimeout(source.timer)
    source.loading?.abort()
    source.loading = null
  }

  lose(run) {
    for (const curve of this.curves) if (curve.spec.run === run) curve.clear()
    const source = this.sources.get(run)
    if (source) Object.assign(source, { loaded: true, positions: {} })
    this.changed()
  }

  // --- stream --------------------------------------------------------------------------------------------------------

  /** A stream has begun: read the history again if rows went by meanwhile, or the files are others. */
  compare({ run, positions }) {
    const source = this.sources.get(run)
    if (!source?.loaded || source.loading) return
    for (const stream of this.streamsOf(run)) {
      for (const [file, records] of Object.entries(positions[stream] ?? {})) {
        if (records !== (source.positions[stream]?.[file] ?? 0)) {
          this.load(source)
          return
        }
      }
    }
  }

  streamsOf(run) {
    return new Set(this.curves.filter((curve) => curve.spec.run === run).map((curve) => curve.spec.stream))
  }

  take(rows) {
    const source = this.sources.get(rows.run)
    if (!source) return
    if (source.loading || !source.loaded) {
      source.waiting.push(rows)
      return
    }
    const known = (source.positions[rows.stream] ??= {})
    const have = known[rows.file] ?? 0
    const count = rows.steps.length
    if (rows.first > have) {
      this.reload(source, 0) // rows were lost on the way
      return
    }
    const skip = have - rows.first
    if (skip >= count) return
    known[rows.file] = rows.first + count
    let touched = false
    for (const curve of this.curves) {
      const { spec } = curve
      if (spec.run !== rows.run || spec.stream !== rows.stream) continue
      const values = rows.columns[spec.column]
      if (!values) continue
      touched = true
      for (let i = skip; i < count; i += 1) {
        const x = this.data.axis === 'time' ? toLocal(rows.times[i] * 1000) : rows.steps[i]
        if (!curve.add(rows.file, x, values[i] ?? NaN)) this.reload(source, RELOAD_LATER_MS)
      }
      if (curve.overgrown) this.reload(source, RELOAD_SOON_MS)
    }
    if (touched) this.changed()
  }

  // --- drawing -------------------------------------------------------------------------------------------------------

  /** Something to draw has changed: draw it in the next frame, but not too often. */
  changed() {
    this.dirty = true
    if (this.pending || this.removed) return
    const wait = this.drawnAt + Math.max(DRAW_EVERY_MS, DRAW_SHARE * this.drawMs) - performance.now()
    this.pending = true
    const draw = () =>
      requestAnimationFrame(() => {
        this.pending = false
        if (this.visible) this.draw()
      })
    if (wait > 0) setTimeout(draw, wait)
    else draw()
  }

  draw() {
    if (!this.Plotly || this.removed || !this.data) return
    this.dirty = false
    this.revision += 1
    const began = performance.now()
    const traces = this.curves.flatMap((curve) => buildTraces(curve, this))
    const layout = buildLayout({ ...this, width: this.plot.clientWidth })
    this.Plotly.react(this.plot, traces, layout, CONFIG)
    if (!this.plotted) {
      this.plotted = true
      this.plot.on('plotly_relayout', (change) => this.zoomed(change))
    }
    this.drawLegend()
    this.say(this.sentence())
    this.drawnAt = performance.now()
    this.drawMs = this.drawnAt - began
    this.element.dataset.points = this.curves.reduce((sum, curve) => sum + curve.main.x.length, 0)
    this.element.dataset.last = this.curves.map((curve) => curve.main.x[curve.main.x.length - 1] ?? '').join(' ')
  }

  zoomed(change) {
    const range = change['xaxis.range'] ?? [change['xaxis.range[0]'], change['xaxis.range[1]']]
    if (change['xaxis.autorange']) this.range = null
    else if (range[0] !== undefined) this.range = range.map(this.data.axis === 'time' ? parseDate : Number)
    else return
    for (const source of this.sources.values()) {
      const thinned = this.curves.some((curve) => curve.spec.run === source.run && curve.thinned)
      if (thinned) this.reload(source, RELOAD_SOON_MS)
    }
  }

  // --- what stands around it -----------------------------------------------------------------------------------------

  drawLegend() {
    const shown = this.curves.map((curve) => {
      const latest = curve.spec.kind === 'raw+smooth' ? lastFinite(curve.smoothed.y) : curve.latest
      return [curve.spec, Number.isFinite(latest) ? formatWithUnit(latest, this.data.unit) : '']
    })
    while (this.legend.children.length > shown.length) this.legend.lastChild.remove()
    shown.forEach(([spec, value], index) => {
      let entry = this.legend.children[index]
      if (!entry) {
        entry = document.createElement('button')
        entry.type = 'button'
        entry.append(...['i', 'span', 'b'].map((tag) => document.createElement(tag)))
        entry.addEventListener('click', () => this.toggle(entry.dataset.id))
        this.legend.append(entry)
      }
      entry.dataset.id = spec.id
      entry.setAttribute('aria-pressed', String(!this.hidden.has(spec.id)))
      entry.title = `${spec.kind === 'raw+smooth' ? 'The moving average. ' : ''}Click to show or hide ${spec.label}.`
      entry.children[0].style.background = pickColor(this.theme, spec.color)
      entry.children[0].style.opacity = spec.kind === 'ghost' ? 0.45 : 1
      setText(entry.children[1], spec.label)
      setText(entry.children[2], value)
    })
    const told = shown.map(([spec, value]) => `${spec.label} ${value || 'no value yet'}`).join(', ')
    this.plot.setAttribute('aria-label', `${this.data.title}: ${told}`)
  }

  toggle(id) {
    if (!this.hidden.delete(id)) this.hidden.add(id)
    this.drawnAt = 0
    this.changed()
  }

  sentence() {
    if (this.curves.some((curve) => curve.main.x.length)) return ''
    if (this.failed) return 'The values could not be read. Trying again.'
    return [...this.sources.values()].every((source) => source.loaded) ? this.data.empty : ''
  }

  say(sentence) {
    setText(this.note, sentence)
    this.note.hidden = !sentence
  }
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

function lastFinite(values) {
  for (let i = values.length - 1; i >= 0; i -= 1) if (Number.isFinite(values[i])) return values[i]
  return NaN
}

// Plotly draws dates as if they were UTC; shifted, they read as the time of day here.
function toLocal(ms) {
  return ms - new Date(ms).getTimezoneOffset() * 60000
}

function fromLocal(ms) {
  return ms + new Date(ms).getTimezoneOffset() * 60000
}

function parseDate(text) {
  return typeof text === 'number' ? text : Date.parse(`${String(text).replace(' ', 'T')}Z`)
}
