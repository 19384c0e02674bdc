// The live chart: Plotly, updated in place. Zoom and hover survive new rows, reruns of the page and a theme change.

import { Curve } from './curve.js'
import { CONFIG, buildLayout, buildTraces } from './figure.js'
import { formatWithUnit } from './format.js'
import { HistoryError, readHistory } from './history.js'
import { subscribe } from './stream.js'
import { pickColor, readTheme } from './theme.js'

const POINTS = 1500
const DRAW_EVERY_MS = 80
const DRAW_SHARE = 4 // a chart that takes 50 ms to draw is drawn at most every 200 ms
const RELOAD_SOON_MS = 150
const RELOAD_LATER_MS = 3000
const RELOAD_AFTER_FAILURE_MS = 2000

const charts = new WeakMap()
let plotly = null

/** Draw or update the chart of this component. Streamlit calls this again when its data or the theme changes. */
export function show({ data, parentElement }) {
  let chart = charts.get(parentElement)
  if (!chart) charts.set(parentElement, (chart = new Chart(parentElement.querySelector('.relight-chart'))))
  chart.update(data)
}

/** Remove the chart. */
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
    this.forget()
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
    // Plotly resizes a moment later and throws if the page was left by then. Nothing needs a resize then.
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

  /** Take over changed data or a changed theme. */
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
    this.cancelLoading()
    if (this.plotted) this.Plotly.purge(this.plot)
  }

  subscribeTo(data) {
    this.unsubscribe()
    this.cancelLoading()
    this.forget()
    const kept = new Map(this.curves.map((curve) => [curve.spec.id, curve]))
    this.curves = data.series.map((spec) => {
      const curve = kept.get(spec.id) ?? new Curve(spec)
      curve.spec = spec
      return curve
    })
    this.hidden = new Set([...this.hidden].filter((id) => this.curves.some((curve) => curve.spec.id === id)))
    this.load()
    this.unsubscribe = subscribe({
      watch: { [data.run]: [...this.streams()] },
      onRows: (rows) => this.take(rows),
      onHello: ({ positions }) => this.compare(positions),
      onReset: () => this.reload(0),
      onGone: () => this.clear(),
      onConnection: (connection) => (this.element.dataset.connection = connection),
    })
  }

  streams() {
    return new Set(this.curves.map((curve) => curve.spec.stream))
  }

  // --- history -------------------------------------------------------------------------------------------------------

  /** Start without history: rows wait until it has been read. */
  forget() {
    this.positions = {} // records read so far, by stream and metric file
    this.waiting = []
    this.loaded = false
    this.loading = null
    this.reloadTimer = 0
  }

  async load() {
    this.cancelLoading()
    this.reloadTimer = 0
    const loading = new AbortController()
    this.loading = loading
    try {
      const { run, axis } = this.data
      const history = await readHistory(run, {
        names: this.curves.map((curve) => curve.spec.name),
        smooth: this.curves.filter((curve) => curve.spec.smooth).map((curve) => curve.spec.name),
        axis,
        points: POINTS,
        window: this.range && axis === 'time' ? this.range.map(fromLocal) : this.range,
        signal: loading.signal,
      })
      if (this.loading !== loading) return
      for (const curve of this.curves) {
        const filled = history.series[curve.spec.name]
        if (axis === 'time') for (const part of ['main', 'smoothed', 'ghosts']) filled[part].x = filled[part].x.map(toLocal)
        curve.fill(filled)
      }
      this.positions = history.positions
      this.loaded = true
      this.failed = false
    } catch (error) {
      if (this.loading !== loading || error.name === 'AbortError') return
      this.loading = null
      if (error instanceof HistoryError && error.gone) {
        this.clear()
        return
      }
      this.failed = true
      this.changed()
      this.reload(RELOAD_AFTER_FAILURE_MS)
      return
    }
    this.loading = null
    const waiting = this.waiting
    this.waiting = []
    waiting.forEach((rows) => this.take(rows))
    this.changed()
  }

  /** Read the history again within `ms`. */
  reload(ms) {
    if (this.removed || (this.reloadTimer && ms > 0)) return
    clearTimeout(this.reloadTimer)
    this.reloadTimer = setTimeout(() => this.load(), ms)
  }

  cancelLoading() {
    clearTimeout(this.reloadTimer)
    this.loading?.abort()
    this.loading = null
  }

  /** The run was removed: show empty curves. */
  clear() {
    for (const curve of this.curves) curve.clear()
    this.loaded = true
    this.positions = {}
    this.changed()
  }

  // --- stream --------------------------------------------------------------------------------------------------------

  /** At the start of a stream, read the history again if this chart missed rows or the metric files changed. */
  compare(positions) {
    if (!this.loaded || this.loading) return
    for (const stream of this.streams()) {
      for (const [file, records] of Object.entries(positions[stream] ?? {})) {
        if (records !== (this.positions[stream]?.[file] ?? 0)) {
          this.load()
          return
        }
      }
    }
  }

  take(rows) {
    if (this.loading || !this.loaded) {
      this.waiting.push(rows)
      return
    }
    const known = (this.positions[rows.stream] ??= {})
    const have = known[rows.file] ?? 0
    const count = rows.steps.length
    if (rows.first > have) {
      this.reload(0) // rows were lost on the way
      return
    }
    const skip = have - rows.first
    if (skip >= count) return
    known[rows.file] = rows.first + count
    let touched = false
    for (const curve of this.curves) {
      const { spec } = curve
      const values = spec.stream === rows.stream && rows.columns[spec.column]
      if (!values) continue
      touched = true
      for (let i = skip; i < count; i += 1) {
        const x = this.data.axis === 'time' ? toLocal(rows.times[i] * 1000) : rows.steps[i]
        if (!curve.add(rows.file, x, values[i] ?? NaN)) this.reload(RELOAD_LATER_MS)
      }
      if (curve.overgrown) this.reload(RELOAD_SOON_MS)
    }
    if (touched) this.changed()
  }

  // --- drawing -------------------------------------------------------------------------------------------------------

  /** Draw in the next frame, but not too often. */
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
    if (this.curves.some((curve) => curve.thinned)) this.reload(RELOAD_SOON_MS)
  }

  // --- legend and note -----------------------------------------------------------------------------------------------

  drawLegend() {
    const shown = this.curves.map((curve) => {
      const latest = lastFinite((curve.spec.smooth ? curve.smoothed : curve.main).y)
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
      entry.title = `${spec.smooth ? 'Moving average. ' : ''}Click to show or hide "${spec.label}".`
      entry.children[0].style.background = pickColor(this.theme, spec.color)
      setText(entry.children[1], spec.label)
      setText(entry.children[2], value)
    })
    const values = shown.map(([spec, value]) => `${spec.label} ${value || 'no value yet'}`).join(', ')
    this.plot.setAttribute('aria-label', `${this.data.title}: ${values}`)
  }

  toggle(id) {
    if (!this.hidden.delete(id)) this.hidden.add(id)
    this.drawnAt = 0
    this.changed()
  }

  sentence() {
    if (this.curves.some((curve) => curve.main.x.length)) return ''
    if (this.failed) return 'The values cannot be read. Retrying…'
    return this.loaded ? this.data.empty : ''
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

// Plotly draws dates in UTC. Shift them to show local time.
function toLocal(ms) {
  return ms - new Date(ms).getTimezoneOffset() * 60000
}

function fromLocal(ms) {
  return ms + new Date(ms).getTimezoneOffset() * 60000
}

function parseDate(text) {
  return typeof text === 'number' ? text : Date.parse(`${String(text).replace(' ', 'T')}Z`)
}
