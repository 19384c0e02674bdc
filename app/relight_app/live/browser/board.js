// The chart board of a run: all its charts, in groups, with what sets how they are drawn. Python mounts it once; what it
// shows comes from /api/board, asked for again when the live stream says that the run has something new.

import { Chart, setText } from './chart.js'
import { loadPlotly } from './plotly.js'
import { Settings, X_MODES } from './settings.js'
import { siteUrl } from './site.js'
import { subscribe } from './stream.js'
import { readTheme } from './theme.js'

const ASK_EVERY_MS = 250
const ASK_AFTER_FAILURE_MS = 2000
const TOPICS = ['life', 'files', 'names'] // of topics.py: what the plan depends on
const SEARCH_MS = 120
const FIRST_CHARTS = 12
const MORE_CHARTS = 48
const AWAKE = 24 // charts that keep their curves; those seen longest ago give them back
const FEW = 24 // charts of a run whose groups all start unfolded
const HEIGHT = 185
const LEADING_HEIGHT = 285
const MARGIN_PX = 300
const MARGIN = `${MARGIN_PX}px`

const boards = new Map() // by the element that they fill
const filled = new WeakMap()

/** Draw or update the board of this component. Streamlit calls this again when its data or the theme changes. */
export function show({ data, parentElement }) {
  const element = parentElement.querySelector('.relight-board')
  filled.set(parentElement, element)
  let board = boards.get(element)
  if (board && board.run !== data.run) {
    board.remove()
    board = null
  }
  if (!board) boards.set(element, (board = new Board(element, data)))
  board.refreshTheme()
}

/** Remove the board. */
export function remove({ parentElement }) {
  const element = filled.get(parentElement)
  boards.get(element)?.remove()
  boards.delete(element)
}

class Board {
  constructor(element, data) {
    this.element = element
    this.run = data.run
    this.plotly = loadPlotly(data.plotly)
    this.settings = new Settings((changes) => this.apply(changes))
    this.story = { run: data.run, name: data.run, groups: [], edges: [], checkpoints: [], origin: null }
    this.charts = new Map()
    this.sections = new Map()
    this.limits = new Map()
    this.state = null
    this.reached = 0
    this.etag = ''
    this.askedAt = -Infinity
    this.timers = new Set()
    this.removed = false
    this.enlarged = null
    this.unsubscribe = () => {}
    this.sights = new IntersectionObserver((entries) => this.look(entries), { rootMargin: MARGIN, scrollMargin: MARGIN })
    const sent = element.querySelector('script[data-etag]') // the plan that came with the page
    this.build()
    if (sent) {
      this.etag = sent.dataset.etag
      this.take(JSON.parse(sent.textContent))
      this.lookNow()
    } else {
      this.follow([])
      this.ask()
    }
  }

  remove() {
    this.removed = true
    this.unsubscribe()
    this.sights.disconnect()
    this.settings.stop()
    this.timers.forEach(clearTimeout)
    this.charts.forEach((chart) => chart.sleep())
    this.element.replaceChildren()
  }

  refreshTheme() {
    const theme = readTheme(this.element)
    if (theme.signature === this.theme?.signature) return
    this.theme = theme
    this.charts.forEach((chart) => chart.changed())
  }

  // --- what the run has ------------------------------------------------------------------------------------------------

  /** Ask for the plan again, but not too often, and not before the last answer has come. */
  ask(ms = 0) {
    if (this.removed || this.waiting) return
    this.waiting = true
    this.later(Math.max(ms, this.askedAt + ASK_EVERY_MS - performance.now()), () => {
      this.asked = (this.asked ?? Promise.resolve()).then(() => {
        this.waiting = false
        this.askedAt = performance.now()
        return this.fetch()
      })
    })
  }

  async fetch() {
    try {
      const headers = this.etag ? { 'If-None-Match': this.etag } : {}
      const response = await fetch(siteUrl(`/api/board?${new URLSearchParams({ run: this.run })}`), { headers, cache: 'no-store' })
      if (this.removed || response.status === 304) return
      if (!response.ok) {
        this.say(response.status === 404 ? 'This run is no longer there.' : 'The charts of this run cannot be read.')
        if (response.status !== 404) this.ask(ASK_AFTER_FAILURE_MS)
        return
      }
      this.etag = response.headers.get('ETag') ?? ''
      this.take(await response.json())
    } catch {
      this.ask(ASK_AFTER_FAILURE_MS)
    }
  }

  later(ms, act) {
    const timer = setTimeout(() => {
      this.timers.delete(timer)
      act()
    }, ms)
    this.timers.add(timer)
  }

  take(story) {
    const before = this.story
    this.story = story
    this.names = new Set(story.groups.flatMap(({ charts }) => charts.flatMap(({ series }) => series.map(({ name }) => name))))
    this.follow([...new Set([...this.names].map((name) => name.slice(0, Math.max(0, name.indexOf('/')))))])
    this.epoch.disabled = !story.steps_per_epoch
    this.arrange()
    if (before.steps_per_epoch !== story.steps_per_epoch && this.settings.values.x === 'epoch') this.apply({ x: 'epoch' })
    this.charts.forEach((chart) => chart.changed())
    this.element.dataset.charts = this.charts.size
    this.say(this.names.size ? '' : story.live ? 'Waiting for the first values.' : 'Nothing was logged.')
  }

  follow(streams) {
    const watch = JSON.stringify(streams.sort())
    if (watch === this.watching) return
    this.watching = watch
    this.unsubscribe()
    this.unsubscribe = subscribe({
      watch: { [this.run]: streams },
      onState: (state) => this.observe(state),
      onChanged: ({ run, topics }) => run && this.consider(topics),
      onReset: () => this.ask(),
      onGone: () => this.ask(),
      onConnection: (connection) => {
        if (connection === 'open' && this.element.dataset.connection === 'lost') this.ask()
        this.element.dataset.connection = connection
      },
    })
  }

  /** Ask for the plan again when something that it depends on has changed. */
  consider(topics) {
    const tokens = JSON.stringify(TOPICS.map((name) => topics[name]))
    if (tokens !== this.tokens) this.ask()
    this.tokens = tokens
  }

  /** Move what moves with the live state of the run. */
  observe(state) {
    const before = this.state
    this.state = state
    const facts = (one) => one && [one.status, one.attempt, one.step, one.durable_step].join()
    if (before?.attempt !== state.attempt) this.reached = 0
    if (facts(before) === facts(state)) return
    this.charts.forEach((chart) => {
      if (chart.awake && chart.visible) chart.drawStory()
    })
  }

  /** Take note of a step that an attempt has just trained; it comes sooner than the state. */
  reach(attempt, step) {
    if (attempt === this.state?.attempt) this.reached = Math.max(this.reached, step)
  }

  /** The step of a running attempt that trains steps again; infinite when there is none. */
  get now() {
    const { state } = this
    if (state?.status !== 'running' || state.attempt < 2) return Infinity
    return Math.max(state.step, this.reached)
  }

  /** When the run began and ended, or now, in milliseconds. */
  get times() {
    const { began_s: began, ended_s: ended } = this.story
    return { begin: began === null || began === undefined ? undefined : began * 1000, end: ended ? ended * 1000 : Date.now() }
  }

  /** The part that no checkpoint protects: {from, to, word} in steps or milliseconds; null without one. */
  findTail({ kind }) {
    const { state, story } = this
    if (!state || !state.work_at_risk_steps || state.status === 'finished') return null
    const from = state.durable_step ?? 0
    const word = ['queued', 'running'].includes(state.status) ? 'at risk' : 'lost'
    if (kind === 'step') return { from, to: Math.max(state.step, word === 'at risk' && this.reached ? this.reached : 0), word }
    const durable = story.checkpoints.find(({ step }) => step === from)
    const { begin, end } = this.times
    const time = durable ? durable.time_s * 1000 : from === 0 ? begin : null
    return time ? { from: time, to: end, word } : null
  }

  /** Ask the page for an action: it shows what is wrong, or that the action is done. */
  act(name, payload) {
    document.dispatchEvent(new CustomEvent('relight-action', { detail: { name, payload } }))
  }

  // --- what the page has -----------------------------------------------------------------------------------------------

  build() {
    this.element.innerHTML = `
      <div class="relight-toolbar" role="group" aria-label="Charts">
        <input type="search" class="relight-search" placeholder="Search charts" aria-label="Search charts" spellcheck="false">
        <label>x axis <select></select></label>
        <label>Smoothing <input type="range" min="0" max="0.99" step="0.01"><output></output></label>
        <button type="button" data-flag="logY">Log y</button><button type="button" data-flag="logX">Log x</button>
        <button type="button" data-flag="outliers" title="Scale the value axis without the highest and lowest 5 %">Ignore outliers</button>
        <button type="button" class="relight-reset">Reset</button>
        <span class="relight-hint">Numbers are the latest values, without smoothing.</span>
      </div>
      <p class="relight-board-note" role="status" hidden></p>
      <div class="relight-groups"></div>
      <dialog class="relight-full" aria-label="Chart in full screen"></dialog>`
    const find = (selector) => this.element.querySelector(selector)
    this.note = find('.relight-board-note')
    this.groups = find('.relight-groups')
    this.dialog = find('dialog')
    this.search = find('.relight-search')
    this.select = find('select')
    this.slider = find('input[type=range]')
    this.output = find('output')
    this.resetButton = find('.relight-reset')
    this.flags = [...this.element.querySelectorAll('[data-flag]')]
    this.select.append(...Object.entries(X_MODES).map(([value, text]) => new Option(text, value)))
    this.epoch = this.select.querySelector('[value=epoch]')
    this.epoch.disabled = true
    this.search.addEventListener('input', () => {
      clearTimeout(this.searching)
      this.searching = setTimeout(() => this.settings.set({ search: this.search.value.trim() }), SEARCH_MS)
    })
    this.select.addEventListener('change', () => this.settings.set({ x: this.select.value }))
    this.slider.addEventListener('input', () => this.settings.set({ smoothing: Number(this.slider.value) }))
    this.flags.forEach((button) =>
      button.addEventListener('click', () => this.settings.set({ [button.dataset.flag]: !this.settings.values[button.dataset.flag] })),
    )
    this.resetButton.addEventListener('click', () => this.settings.reset())
    this.dialog.addEventListener('close', () => this.shrink())
    this.search.value = this.settings.values.search
    this.drawToolbar()
  }

  drawToolbar() {
    const { values } = this.settings
    this.select.value = values.x
    this.slider.value = values.smoothing
    setText(this.output, values.smoothing ? values.smoothing.toFixed(2) : 'off')
    this.slider.setAttribute('aria-valuetext', this.output.textContent)
    this.flags.forEach((button) => button.setAttribute('aria-pressed', String(values[button.dataset.flag])))
    this.resetButton.hidden = !this.settings.changed
  }

  apply(changes) {
    this.drawToolbar()
    if ('search' in changes || 'pinned' in changes || 'folded' in changes) this.arrange()
    this.charts.forEach((chart) => chart.apply(changes))
  }

  pin(key, on) {
    const others = this.settings.values.pinned.filter((one) => one !== key)
    this.settings.set({ pinned: on ? [...others, key] : others })
  }

  say(sentence) {
    setText(this.note, sentence)
    this.note.hidden = !sentence
  }

  /** Put the charts that the search finds into their groups, the pinned ones first. */
  arrange() {
    const { search, pinned, folded } = this.settings.values
    const all = new Map(this.story.groups.flatMap(({ charts }) => charts.map((plan) => [plan.key, plan])))
    const words = search.toLowerCase().split(/\s+/).filter(Boolean)
    const found = (plan) => {
      const text = [plan.title, plan.key, ...plan.series.map(({ name }) => name)].join('\n').toLowerCase()
      return words.every((word) => text.includes(word))
    }
    const top = pinned.filter((key) => all.has(key)).map((key) => all.get(key))
    const groups = [
      { title: 'Pinned', charts: top, leading: top.length },
      ...this.story.groups.map((group) => ({ ...group, charts: group.charts.filter(({ key }) => !pinned.includes(key)) })),
    ]
    const shown = new Set()
    const sections = []
    groups.forEach((group, index) => {
      const charts = group.charts.filter(found)
      if (!charts.length) return
      const section = this.section(group.title)
      sections.push(section.element)
      const startsOpen = all.size <= FEW || index < 2 || group.title === 'Machine'
      const open = words.length > 0 || !(folded[group.title] ?? !startsOpen)
      const limit = this.limits.get(group.title) ?? FIRST_CHARTS
      const visible = open ? charts.slice(0, limit) : []
      visible.forEach(({ key }) => shown.add(key))
      section.fill({ open, total: charts.length, rest: open ? charts.length - visible.length : 0 })
      const leading = Math.min(group.leading ?? 0, visible.length)
      place(section.leading, visible.slice(0, leading).map((plan) => this.node(plan, LEADING_HEIGHT)))
      place(section.grid, visible.slice(leading).map((plan) => this.node(plan, HEIGHT)))
    })
    place(this.groups, sections)
    for (const [key, chart] of this.charts) {
      if (shown.has(key) || chart === this.enlarged) continue
      chart.sleep()
      this.sights.unobserve(chart.element)
      chart.element.remove()
      this.charts.delete(key)
    }
    if (all.size) this.say(sections.length ? '' : 'No charts match.')
  }

  /** Return the element of a chart, or what keeps its place while it is enlarged. */
  node(plan, height) {
    let chart = this.charts.get(plan.key)
    if (!chart) {
      this.charts.set(plan.key, (chart = new Chart(this, plan, height)))
      this.sights.observe(chart.element)
    } else if (chart === this.enlarged) {
      this.height = height
      return this.empty
    } else chart.update(plan, height)
    return chart.element
  }

  section(title) {
    let section = this.sections.get(title)
    if (section) return section
    const element = document.createElement('section')
    element.className = 'relight-group'
    element.innerHTML = `
      <h2><button type="button" aria-expanded="true"><i></i><span></span><small></small></button></h2>
      <div class="relight-leading"></div><div class="relight-grid"></div>
      <button type="button" class="relight-rest"></button>`
    const [heading, rest] = element.querySelectorAll('button')
    setText(heading.querySelector('span'), title)
    heading.addEventListener('click', () => {
      const folded = heading.getAttribute('aria-expanded') === 'true'
      this.settings.set({ folded: { ...this.settings.values.folded, [title]: folded } })
    })
    rest.addEventListener('click', () => {
      this.limits.set(title, (this.limits.get(title) ?? FIRST_CHARTS) + MORE_CHARTS)
      this.arrange()
    })
    section = {
      element,
      leading: element.querySelector('.relight-leading'),
      grid: element.querySelector('.relight-grid'),
      fill: ({ open, total, rest: left }) => {
        heading.setAttribute('aria-expanded', String(open))
        setText(heading.querySelector('small'), String(total))
        rest.hidden = !left
        setText(rest, `Show ${Math.min(left, MORE_CHARTS)} more of ${left.toLocaleString('en-US')}`)
      },
    }
    this.sections.set(title, section)
    return section
  }

  /** Wake the charts in sight before the observer's first word, which comes when Plotly.js has run: their history can be on its way by then. */
  lookNow() {
    const isIntersecting = ({ top, bottom, height }) => height > 0 && bottom > -MARGIN_PX && top < innerHeight + MARGIN_PX
    const targets = [...this.charts.values()].map((chart) => chart.element)
    this.look(targets.map((target) => ({ target, isIntersecting: isIntersecting(target.getBoundingClientRect()) })))
  }

  /** Wake the charts that come into sight. */
  look(entries) {
    for (const { target, isIntersecting } of entries) {
      const chart = this.charts.get(target.dataset.key)
      if (!chart) continue
      if (isIntersecting) chart.wake()
      chart.see(isIntersecting)
    }
    const awake = [...this.charts.values()].filter((chart) => chart.awake)
    const tired = awake.filter((chart) => !chart.visible).sort((a, b) => a.seenAt - b.seenAt)
    tired.slice(0, Math.max(0, awake.length - AWAKE)).forEach((chart) => chart.sleep())
  }

  // --- full screen -----------------------------------------------------------------------------------------------------

  enlarge(chart) {
    this.shrink()
    this.enlarged = chart
    this.height = chart.height
    this.empty = document.createElement('div')
    chart.element.replaceWith(this.empty)
    this.dialog.append(chart.element)
    this.dialog.showModal()
    chart.update(chart.plan, Math.max(240, this.dialog.clientHeight - 85))
  }

  shrink() {
    const chart = this.enlarged
    if (!chart) return
    this.enlarged = null
    this.dialog.close()
    this.empty.replaceWith(chart.element)
    chart.update(chart.plan, this.height)
    if (!chart.element.isConnected) this.arrange()
    chart.more.focus()
  }
}

/** Make `nodes` the children of `parent`, and move none that is in its place. */
function place(parent, nodes) {
  nodes.forEach((node, index) => {
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null)
  })
  while (parent.children.length > nodes.length) parent.lastChild.remove()
}
