// One chart: Plotly, updated in place. Zoom and hover survive new rows and a change of the theme.

import { chooseAxis, parsePosition } from './axis.js'
import { Curve } from './curve.js'
import { CONFIG, buildLayout, buildTraces, findUnit } from './figure.js'
import { formatWithUnit } from './format.js'
import { HistoryError, readHistory } from './history.js'
import { openMenu } from './menu.js'
import { savePicture } from './picture.js'
import { X_MODES } from './settings.js'
import { StoryLayer, buildShapes } from './story.js'
import { subscribe } from './stream.js'
import { pickColor } from './theme.js'

const POINTS = 1500
const FRAME_MS = 10
const DRAW_EVERY_MS = 80
const DRAW_SHARE = 4 // a chart that takes 50 ms to draw is drawn at most every 200 ms
const RELOAD_SOON_MS = 150
const RELOAD_LATER_MS = 3000
const RELOAD_AFTER_FAILURE_MS = 2000

/** Charts that wait to be drawn. A frame draws as many as fit, at least one, so that the page never freezes for all. */
const draws = {
  waiting: new Set(),
  frame: 0,
  drew: false,
  add(chart) {
    this.waiting.add(chart)
    this.frame ||= requestAnimationFrame(() => this.draw())
  },
  draw() {
    const end = performance.now() + FRAME_MS
    for (const chart of this.waiting) {
      this.waiting.delete(chart)
      chart.draw()
      if (performance.now() > end) break
    }
    this.frame = this.waiting.size ? requestAnimationFrame(() => this.draw()) : 0
    if (!this.frame && this.drew) document.dispatchEvent(new CustomEvent('relight-drawn'))
  },
}

/** A chart of the board: a card that costs nothing until `wake`, and nothing again after `sleep`. */
export class Chart {
  constructor(board, plan, height) {
    this.board = board
    this.element = makeCard()
    this.title = this.element.querySelector('.relight-chart-title')
    this.legend = this.element.querySelector('.relight-chart-legend')
    this.more = this.element.querySelector('.relight-more')
    this.plot = this.element.querySelector('.relight-chart-plot')
    this.note = this.element.querySelector('.relight-chart-note')
    this.origin = this.element.querySelector('.relight-origin')
    this.more.addEventListener('click', () => this.openMenu())
    this.curves = []
    this.origins = new Map() // the parent's curves, by name
    this.hidden = new Set()
    this.height = height
    this.awake = false
    this.visible = false
    this.seenAt = 0
    this.revision = 0
    this.forget()
    this.unsubscribe = () => {}
    // Plotly resizes a moment later and throws if the page was left by then. Nothing needs a resize then.
    // How many ticks fit depends on the width, so the chart is drawn again then.
    this.resizes = new ResizeObserver(
      () => this.plotted && this.plot.clientWidth && this.Plotly.Plots.resize(this.plot).then(() => this.changed(), () => {}),
    )
    this.update(plan, height)
  }

  /** Take over a changed plan, and the height of the plot in pixels. */
  update(plan, height) {
    const before = this.plan
    this.plan = plan
    this.height = height
    this.element.dataset.key = plan.key
    this.plot.style.height = `${height}px`
    setText(this.title, plan.title)
    this.title.title = plan.series.map(({ name }) => name).join(', ')
    this.more.setAttribute('aria-label', `More for ${plan.title}`)
    if (before && JSON.stringify(before) !== JSON.stringify(plan) && this.awake) this.follow()
    else this.changed()
  }

  wake() {
    if (this.awake) return
    this.awake = true
    this.resizes.observe(this.plot)
    this.follow()
    this.board.plotly.then((Plotly) => {
      this.Plotly = Plotly
      this.changed()
    })
  }

  /** Give everything back but the card. */
  sleep() {
    if (!this.awake) return
    this.awake = false
    this.unsubscribe()
    this.resizes.disconnect()
    this.cancelLoading()
    if (this.plotted) this.Plotly.purge(this.plot)
    this.plotted = false
    this.curves = []
    this.origins.clear()
    this.layer?.clear()
    this.originWay = null
    this.forget()
  }

  /** Show what the settings now say; read the history again where they change it. */
  apply(changes) {
    if (!this.awake) return
    if ('x' in changes || 'logX' in changes) this.range = null
    if ('x' in changes) this.follow()
    else if ('smoothing' in changes || 'logX' in changes) this.reload(RELOAD_SOON_MS)
    this.drawnAt = 0
    this.changed()
  }

  get axis() {
    return chooseAxis(this.board.settings.values.x, {
      byTime: this.plan.by_time,
      stepsPerEpoch: this.board.story.steps_per_epoch,
      times: this.board.times,
    })
  }

  follow() {
    this.unsubscribe()
    this.cancelLoading()
    this.forget()
    const { run } = this.board
    const kept = new Map(this.curves.map((curve) => [curve.spec.name, curve]))
    this.curves = this.plan.series.map((series) => {
      const slash = series.name.indexOf('/')
      const spec = { ...series, id: series.name, stream: series.name.slice(0, Math.max(0, slash)), column: series.name.slice(slash + 1) }
      const curve = kept.get(spec.name) ?? new Curve(spec)
      curve.spec = spec
      return curve
    })
    this.kind = this.axis.kind
    this.load()
    this.unsubscribe = subscribe({
      watch: { [run]: [...this.streams()] },
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
    this.attempts = new Map() // the attempt of the latest row, by stream
    this.waiting = []
    this.loaded = false
    this.loading = null
    this.failed = false
    this.reloadTimer = 0
    this.range = null // the zoomed range, in steps or milliseconds
    this.dirty = false
    this.pending = false
    this.drawnAt = 0
    this.drawMs = 0
  }

  async load() {
    this.cancelLoading()
    this.reloadTimer = 0
    const loading = new AbortController()
    this.loading = loading
    const { smoothing, logX } = this.board.settings.values
    const query = {
      smooth: this.curves.filter((curve) => curve.spec.smooth).map((curve) => curve.spec.name),
      smoothing,
      axis: this.kind,
      log: logX && this.kind === 'step',
      points: POINTS,
      window: this.range,
      signal: loading.signal,
    }
    try {
      const names = this.curves.map((curve) => curve.spec.name)
      const history = await readHistory(this.board.run, { ...query, names })
      if (this.loading !== loading) return
      for (const curve of this.curves) curve.fill(history.series[curve.spec.name], curve.spec.smooth ? smoothing : 0)
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
    this.loadOrigin(query)
  }

  /** Read the curves of the run that this one branched from, once for each way of drawing. */
  async loadOrigin(query) {
    const { origin } = this.board.story
    const way = `${query.smoothing} ${query.log}`
    if (!origin || this.kind !== 'step' || this.plan.by_time || this.originWay === way) return
    try {
      const names = this.curves.map((curve) => curve.spec.name)
      const history = await readHistory(origin.run, { ...query, names, window: null })
      this.originWay = way
      for (const [name, { main, smoothed }] of Object.entries(history.series)) {
        this.origins.set(name, smoothed.x.length ? smoothed : main)
      }
      this.changed()
    } catch {
      // The parent has gone, or this chart no longer needs it.
    }
  }

  /** Read the history again within `ms`. */
  reload(ms) {
    if (!this.awake || (this.reloadTimer && ms > 0)) return
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
    const byTime = this.kind === 'time'
    const before = this.attempts.get(rows.stream)
    if (byTime && before !== undefined && before !== rows.attempt) this.reload(RELOAD_SOON_MS) // for the gap
    this.attempts.set(rows.stream, rows.attempt)
    let touched = false
    for (const curve of this.curves) {
      const { spec } = curve
      const values = spec.stream === rows.stream && rows.columns[spec.column]
      if (!values) continue
      touched = true
      for (let i = skip; i < count; i += 1) {
        const x = byTime ? rows.times[i] * 1000 : rows.steps[i]
        if (!curve.add(rows.file, x, values[i] ?? NaN)) this.reload(RELOAD_LATER_MS)
      }
      if (curve.overgrown) this.reload(RELOAD_SOON_MS)
    }
    if (touched) {
      if (!this.plan.by_time) this.board.reach(rows.attempt, rows.steps[count - 1])
      this.changed()
    }
  }

  // --- drawing -------------------------------------------------------------------------------------------------------

  /** Draw in the next frame, but not too often. */
  changed() {
    this.dirty = true
    if (this.pending || !this.awake) return
    const wait = this.drawnAt + Math.max(DRAW_EVERY_MS, DRAW_SHARE * this.drawMs) - performance.now()
    this.pending = true
    if (wait > 0) setTimeout(() => draws.add(this), wait)
    else draws.add(this)
  }

  see(visible) {
    this.visible = visible
    this.seenAt = performance.now()
    if (visible && this.dirty) this.changed()
  }

  draw() {
    this.pending = false
    if (!this.visible || !this.Plotly || !this.awake || !(this.loaded || this.failed)) return
    this.dirty = false
    this.revision += 1
    const began = performance.now()
    const { axis, board } = this
    const { settings, story, theme, times } = board
    const unit = findUnit(this.plan.unit, this.curves)
    const now = this.plan.by_time || axis.kind === 'time' ? Infinity : board.now
    const redo = this.curves.some(({ main: { x } }) => x.length && x[x.length - 1] > now) ? now : Infinity
    const context = { ...this, axis, unit, theme, times, story, now: redo, settings: settings.values }
    const traces = this.curves.flatMap((curve) =>
      buildTraces(curve, { ...context, origin: axis.kind === 'step' ? this.origins.get(curve.spec.name) : null }),
    )
    const shapes = buildShapes(context)
    const layout = buildLayout({ ...context, width: this.plot.clientWidth, shapes })
    this.drawing = { axis, unit, redo }
    this.Plotly.react(this.plot, traces, layout, CONFIG)
    if (!this.plotted) {
      this.plotted = true
      this.layer ??= new StoryLayer(this.element.querySelector('.relight-chart-body'))
      this.plot.on('plotly_relayout', (change) => this.zoomed(change))
      this.plot.on('plotly_afterplot', () => this.drawStory())
      this.plot.on('plotly_relayouting', () => this.drawStory())
      this.drawStory()
    }
    this.drawLegend(this.drawing)
    this.say(this.sentence())
    draws.drew = true
    this.drawnAt = performance.now()
    this.drawMs = this.drawnAt - began
    this.element.dataset.points = this.curves.reduce((sum, curve) => sum + curve.main.x.length, 0)
    this.element.dataset.last = this.curves.map((curve) => curve.main.x[curve.main.x.length - 1] ?? '').join(' ')
  }

  drawStory() {
    if (!this.plotted || !this.drawing || !this.plot._fullLayout?.xaxis) return undefined
    const { axis, redo } = this.drawing
    const { story } = this.board
    if (!this.curves.some(({ main }) => main.x.length)) return this.layer.clear()
    const carrier = this.plan.by_time ? null : this.curves.find(({ spec, main }) => !this.hidden.has(spec.id) && main.x.length)
    return this.layer.draw({
      plot: this.plot,
      story,
      axis,
      curve: carrier,
      tail: this.plan.by_time ? null : this.board.findTail(axis),
      now: redo,
      onAct: (name, payload) => this.board.act(name, payload),
    })
  }

  zoomed(change) {
    const { axis } = this.drawing
    const { type } = this.plot._fullLayout.xaxis
    const read = (value) => axis.from(type === 'log' ? 10 ** value : parsePosition(value))
    const range = change['xaxis.range'] ?? [change['xaxis.range[0]'], change['xaxis.range[1]']]
    if (change['xaxis.autorange']) this.range = null
    else if (range[0] !== undefined) this.range = range.map(read)
    else return
    if (this.board.settings.values.outliers) this.changed()
    if (this.curves.some((curve) => curve.thinned)) this.reload(RELOAD_SOON_MS)
  }

  // --- legend, note, menu --------------------------------------------------------------------------------------------

  drawLegend({ unit, redo: now }) {
    const { theme, story } = this.board
    const shown = this.curves.map((curve) => [curve.spec, curve.latest(now)])
    while (this.legend.children.length > shown.length) this.legend.lastChild.remove()
    shown.forEach(([spec, latest], index) => {
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
      entry.title = `${spec.name}: latest value. Click to show or hide it.`
      entry.children[0].style.background = pickColor(theme, spec.color)
      setText(entry.children[1], spec.label)
      setText(entry.children[2], word(latest, unit))
      entry.children[2].classList.toggle('relight-broken', latest !== null && !Number.isFinite(latest))
    })
    const values = shown.map(([spec, latest]) => `${spec.label} ${word(latest, unit) || 'no value yet'}`).join(', ')
    this.plot.setAttribute('aria-label', `${this.plan.title}: ${values}`)
    const parent = this.origins.size && this.axis.kind === 'step' && [...this.origins.values()].some(({ x }) => x.length)
    setText(this.origin, parent ? `dotted: ${story.origin.name}` : '')
  }

  toggle(id) {
    if (!this.hidden.delete(id)) this.hidden.add(id)
    this.drawnAt = 0
    this.changed()
  }

  openMenu() {
    const { board, plan } = this
    const pinned = board.settings.values.pinned.includes(plan.key)
    const save = (format) =>
      savePicture(this.Plotly, {
        plot: this.plot,
        format,
        title: plan.title,
        run: board.story.name,
        axisTitle: X_MODES[this.drawing.axis.mode],
        theme: board.theme,
      })
    openMenu(
      this.more,
      [
        { label: pinned ? 'Unpin from the top' : 'Pin to the top', run: () => board.pin(plan.key, !pinned) },
        board.enlarged === this
          ? { label: 'Leave full screen', run: () => board.shrink() }
          : { label: 'Full screen', run: () => board.enlarge(this) },
        { label: 'Save as PNG', disabled: !this.plotted, run: () => save('png') },
        { label: 'Save as SVG', disabled: !this.plotted, run: () => save('svg') },
      ],
      { label: plan.title, parent: this.element },
    )
  }

  sentence() {
    if (this.curves.some((curve) => curve.main.x.length)) return ''
    if (this.failed) return 'The values cannot be read. Retrying…'
    return this.loaded ? 'No values.' : ''
  }

  say(sentence) {
    setText(this.note, sentence)
    this.note.hidden = !sentence
  }
}

function word(value, unit) {
  if (value === null) return ''
  return Number.isFinite(value) ? formatWithUnit(value, unit) : 'not finite'
}

function makeCard() {
  const card = document.createElement('article')
  card.className = 'relight-chart'
  card.innerHTML = `
    <header class="relight-chart-head">
      <span class="relight-chart-title"></span><span class="relight-chart-legend"></span>
      <button type="button" class="relight-more" aria-haspopup="menu" aria-expanded="false">⋯</button>
    </header>
    <div class="relight-chart-body">
      <div class="relight-chart-plot" role="group"></div>
      <div class="relight-origin"></div>
      <div class="relight-chart-note" hidden></div>
    </div>`
  return card
}

/** Set the text of an element, if it differs. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}
