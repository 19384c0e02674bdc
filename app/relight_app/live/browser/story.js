// The run's story on a chart: where attempts ended and continued, its checkpoints, the unprotected tail, and "now".

import { lowerBound } from './curve.js'
import { formatInteger } from './format.js'
import { openMenu } from './menu.js'
import { open } from './navigate.js'
import { siteUrl } from './site.js'
import { withOpacity } from './theme.js'

const DOT_GAP = 14 // pixels between two checkpoints on the curve
const LABEL_GAP = 60 // pixels that a word needs
const SIGNS = {
  crash: 'M3 4.4 4.4 3 8 6.6 11.6 3 13 4.4 9.4 8 13 11.6 11.6 13 8 9.4 4.4 13 3 11.6 6.6 8Z',
  interruption: 'M9.5 1 3 9h4l-1 6 7-9H8.5z',
  stop: 'M3.5 3.5h9v9h-9z',
  resume: 'M4 2.5 13 8l-9 5.5z',
}
const COLORS = { crash: 'red', interruption: 'orange', stop: 'gray', resume: 'green' }

/** Build the vertical lines of the attempts, and of "now", as Plotly shapes. */
export function buildShapes({ story, axis, theme, now }) {
  const lines = story.edges.map((edge) => [place(edge, axis), theme.named[COLORS[edge.kind]], edge.kind === 'resume' ? 'dot' : 'dash'])
  if (Number.isFinite(now) && axis.kind === 'step') lines.push([axis.to(now), theme.primary, 'solid'])
  return lines
    .filter(([x]) => x !== null)
    .map(([x, color, dash]) => ({
      type: 'line',
      layer: 'below',
      xref: 'x',
      yref: 'paper',
      x0: x,
      x1: x,
      y0: 0,
      y1: 1,
      line: { color: withOpacity(color, 0.75), width: 1, dash },
    }))
}

function place({ step, time_s: time }, axis) {
  if (axis.kind === 'step') return axis.to(step)
  return time ? axis.to(time * 1000) : null
}

/** The layer above a plot with signs, dots and the hatched tail. Elements stay while what they show stays. */
export class StoryLayer {
  constructor(parent) {
    this.element = document.createElement('div')
    this.element.className = 'relight-story'
    this.shown = new Map() // elements by key
    parent.append(this.element)
  }

  /**
   * Place everything on the drawn plot. `curve` is the one that carries the checkpoints (null: none), `tail` is
   * {from, to, word} in the chart's own positions, `now` a step.
   */
  draw({ plot, story, axis, curve, tail, now, onAct }) {
    const { xaxis, yaxis, _size: size } = plot._fullLayout
    const toX = (position) => (position === null || (xaxis.type === 'log' && position <= 0) ? NaN : xaxis.d2p(position))
    const visible = (x) => x >= -1 && x <= size.w + 1
    Object.assign(this.element.style, { left: `${size.l}px`, top: `${size.t}px`, width: `${size.w}px`, height: `${size.h}px` })
    const wanted = new Map()
    if (tail) {
      const from = Math.max(0, toX(axis.to(tail.from)))
      const to = Math.min(size.w, toX(axis.to(tail.to)))
      if (to - from > 1) wanted.set('tail', { make: makeTail, x: from, width: to - from, text: to - from > LABEL_GAP ? tail.word : '' })
    }
    for (const edge of story.edges) {
      const x = toX(place(edge, axis))
      if (visible(x)) wanted.set(`${edge.kind} ${edge.attempt}`, { make: () => makeSign(edge), x })
    }
    const at = toX(axis.to(now))
    if (Number.isFinite(now) && axis.kind === 'step' && visible(at)) wanted.set('now', { make: makeNow, x: at })
    if (curve) {
      const dots = story.checkpoints
        .map((dot) => ({ dot, x: toX(place(dot, axis)), y: yaxis.d2p(valueAt(curve, axis.kind === 'step' ? dot.step : dot.time_s * 1000)) }))
        .filter(({ x, y }) => visible(x) && y >= 0 && y <= size.h)
      for (const { dot, x, y } of choose(dots)) {
        const key = `dot ${dot.step} ${dot.best} ${dot.pinned}`
        wanted.set(key, { make: () => this.#makeDot(dot), x, y })
      }
    }
    this.context = { story, onAct }
    for (const [key, element] of this.shown) {
      if (wanted.has(key)) continue
      element.remove()
      this.shown.delete(key)
    }
    for (const [key, { make, x, y, width, text }] of wanted) {
      if (!this.shown.has(key)) {
        this.shown.set(key, make())
        this.element.append(this.shown.get(key))
      }
      const element = this.shown.get(key)
      element.style.left = `${x}px`
      if (y !== undefined) element.style.top = `${y}px`
      if (width !== undefined) element.style.width = `${width}px`
      if (text !== undefined && element.textContent !== text) element.textContent = text
    }
    this.#rove()
  }

  clear() {
    this.shown.clear()
    this.element.replaceChildren()
  }

  #makeDot(dot) {
    const button = document.createElement('button')
    button.type = 'button'
    button.className = `relight-dot${dot.best ? ' best' : ''}${dot.pinned ? ' pinned' : ''}`
    button.dataset.step = dot.step
    const kind = [dot.best && 'best', dot.pinned && 'pinned'].filter(Boolean).join(', ')
    button.title = `Checkpoint at step ${formatInteger(dot.step)}${kind ? ` (${kind})` : ''}`
    button.setAttribute('aria-label', button.title)
    button.setAttribute('aria-haspopup', 'menu')
    button.setAttribute('aria-expanded', 'false')
    button.tabIndex = -1
    button.addEventListener('click', () => this.#openMenu(button, dot))
    button.addEventListener('keydown', (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
      if (!step) return
      event.preventDefault()
      const dots = this.#dots()
      this.#rove(dots[dots.indexOf(button) + step])
    })
    return button
  }

  #dots() {
    return [...this.element.querySelectorAll('.relight-dot')].sort((a, b) => a.dataset.step - b.dataset.step)
  }

  /** Let Tab reach one dot of the chart; the arrow keys lead to the others. */
  #rove(wanted) {
    const dots = this.#dots()
    const reachable = wanted ?? dots.find((dot) => dot.tabIndex === 0) ?? dots[dots.length - 1]
    for (const dot of dots) dot.tabIndex = dot === reachable ? 0 : -1
    wanted?.focus({ preventScroll: true })
  }

  #openMenu(anchor, dot) {
    const { story, onAct } = this.context
    const { run, attempt } = story
    const { step, pinned } = dot
    const branch = siteUrl(`/branch?${new URLSearchParams({ id: run, step })}`)
    const items = [
      { label: 'Resume from here', hint: story.resume_refusal, disabled: Boolean(story.resume_refusal), run: () => onAct('resume', { run, step, attempt }) },
      { label: 'Branch from here', href: branch, run: () => open(branch) },
      { label: 'Export weights', run: () => onAct('export', { run, which: step }) },
      { label: pinned ? 'Unpin' : 'Pin (never delete)', run: () => onAct('pin', { run, step, on: !pinned }) },
    ]
    openMenu(anchor, items, { label: anchor.title, parent: this.element.parentElement })
  }
}

/** Choose the dots that fit beside each other: the newest, the best and the pinned ones first. */
function choose(dots) {
  const rank = ({ dot }) => (dot.best || dot.pinned ? 0 : 1)
  const kept = []
  for (const one of [...dots].reverse().sort((a, b) => rank(a) - rank(b))) {
    if (kept.every((other) => Math.abs(other.x - one.x) >= DOT_GAP)) kept.push(one)
  }
  return kept.sort((a, b) => a.x - b.x)
}

/** Return the value of the bold line of `curve` at a position, between its points; NaN where there is none. */
export function valueAt(curve, position) {
  const { x, y } = curve.smoothed.x.length ? curve.smoothed : curve.main
  const right = lowerBound(x, position)
  if (x[right] === position || right === 0) return x[right] === position ? y[right] : NaN
  if (right === x.length) return NaN
  const share = (position - x[right - 1]) / (x[right] - x[right - 1])
  return y[right - 1] + share * (y[right] - y[right - 1])
}

function makeTail() {
  const tail = document.createElement('div')
  tail.className = 'relight-tail'
  return tail
}

function makeSign(edge) {
  const sign = document.createElement('span')
  sign.className = `relight-sign ${edge.kind}`
  sign.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${SIGNS[edge.kind]}"/></svg>`
  sign.title = edge.text
  sign.setAttribute('role', 'img')
  sign.setAttribute('aria-label', edge.text)
  return sign
}

function makeNow() {
  const sign = document.createElement('span')
  sign.className = 'relight-now'
  sign.textContent = 'now'
  return sign
}
