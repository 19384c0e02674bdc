// Live values: figures of a run that tick without a rerun, and a rerun when something else on the page is out of date.

import { formatAs } from './format.js'
import { arrived, leavingMs } from './leaving.js'
import { subscribe } from './stream.js'

const RERUN_EVERY_MS = 500

const strips = new WeakMap()

/** Draw or update the values of this component. */
export function show(component) {
  const { data, parentElement } = component
  let strip = strips.get(parentElement)
  if (!strip) strips.set(parentElement, (strip = new Strip(parentElement.querySelector('.relight-values'))))
  strip.update(data, component.setTriggerValue)
}

/** Remove the values. */
export function remove({ parentElement }) {
  strips.get(parentElement)?.remove()
  strips.delete(parentElement)
}

class Strip {
  constructor(element) {
    this.element = element
    this.cells = []
    this.unsubscribe = () => {}
    this.asked = ''
    this.askedAt = 0
    this.timer = 0
  }

  update(data, setTriggerValue) {
    const before = this.data
    this.data = data
    this.setTriggerValue = setTriggerValue
    if (JSON.stringify(before?.values) !== JSON.stringify(data.values)) this.build()
    if (before?.run !== data.run) {
      arrived()
      this.state = null
      this.asked = ''
      this.unsubscribe()
      this.unsubscribe = subscribe({
        watch: { [data.run]: [] },
        onState: (state) => this.take(state),
        onGone: () => this.take({ status: 'gone', metrics: {} }),
        onConnection: (connection) => (this.element.dataset.connection = connection),
      })
    }
    // The stream's state, once there is one, is newer than the one that Python drew the page with.
    if (!this.state) this.state = data.state
    this.draw()
    this.consider()
  }

  remove() {
    this.unsubscribe()
    clearTimeout(this.timer)
  }

  take(state) {
    this.state = state
    this.draw()
    this.consider()
  }

  /** Ask for one rerun when a field that the page depends on differs from the value that it was drawn with. */
  consider() {
    const { rendered } = this.data
    const now = Object.fromEntries(Object.keys(rendered).map((field) => [field, read(this.state, field)]))
    const asked = JSON.stringify(now)
    if (asked === JSON.stringify(rendered)) this.asked = ''
    if (asked === JSON.stringify(rendered) || asked === this.asked) return
    const wait = Math.max(this.askedAt + RERUN_EVERY_MS - performance.now(), leavingMs())
    if (wait > 0) {
      clearTimeout(this.timer)
      this.timer = setTimeout(() => this.consider(), wait)
      return
    }
    this.asked = asked
    this.askedAt = performance.now()
    this.setTriggerValue('changed', now)
  }

  build() {
    const { data } = this
    this.element.replaceChildren()
    const list = document.createElement('dl')
    this.cells = data.values.map((value) => {
      const cell = document.createElement('div')
      const [label, figure, detail] = ['dt', 'dd', 'dd'].map((tag) => document.createElement(tag))
      label.textContent = value.label
      figure.className = 'relight-value'
      detail.className = 'relight-detail'
      cell.dataset.field = value.field
      cell.append(label, figure, detail)
      list.append(cell)
      return { value, cell, figure, detail }
    })
    this.element.append(list)
    this.bar = document.createElement('div')
    this.bar.className = 'relight-progress'
    this.bar.setAttribute('role', 'progressbar')
    this.bar.setAttribute('aria-label', 'Progress')
    this.bar.append(document.createElement('i'))
    this.element.append(this.bar)
  }

  draw() {
    const { state } = this
    if (!state) return
    this.element.dataset.status = state.status
    for (const { value, cell, figure, detail } of this.cells) {
      const current = read(state, value.field)
      setText(figure, formatAs(current, value.format))
      const line = value.detail ? fillIn(value.detail, state) : ''
      setText(detail, line)
      detail.hidden = !value.detail
      cell.classList.toggle('relight-warn', value.warn_above !== null && typeof current === 'number' && current > value.warn_above)
    }
    const share = typeof state.progress === 'number' ? state.progress : 0
    this.bar.firstChild.style.transform = `scaleX(${share})`
    this.bar.setAttribute('aria-valuenow', String(Math.round(share * 100)))
  }
}

function read(state, field) {
  if (field.includes('/')) return state.metrics?.[field] ?? null
  return state[field] ?? null
}

const DETAIL_FORMATS = { eta_s: 'duration', elapsed_s: 'duration', work_s: 'duration', work_at_risk_s: 'duration', steps_per_s: 'rate' }

/** Fill the fields of "of {steps_total}" in from the state; return "" when one of them is unknown. */
function fillIn(template, state) {
  let known = true
  const line = template.replace(/\{([^}]+)\}/g, (_, field) => {
    const value = read(state, field)
    if (value === null) known = false
    return formatAs(value, DETAIL_FORMATS[field] ?? (Number.isInteger(value) ? 'integer' : 'auto'))
  })
  return known ? line : ''
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}
