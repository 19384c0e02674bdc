// Figures that tick with the events of their run. In the markup of a part:
//   data-live="step" data-format="integer"                 the text is the field, or a metric's latest value by full name
//   data-template="of {steps_total}, epoch {epoch}"        the text is empty while one of the fields is unknown
//   data-live-width="progress"                             the width is the field, from 0 to 1
//   data-warn="work_at_risk_s" data-warn-above="120"       gets the class "warned" above that

import { formatAs } from './format.js'

const FORMATS = { eta_s: 'duration', elapsed_s: 'duration', work_s: 'duration', work_at_risk_s: 'duration', steps_per_s: 'rate' }

/** Fill in everything live below `root` from the state of its run. */
export function fillIn(root, state) {
  for (const node of root.querySelectorAll('[data-live]')) setText(node, format(state, node.dataset.live, node.dataset.format))
  for (const node of root.querySelectorAll('[data-template]')) setText(node, fillTemplate(node.dataset.template, state))
  for (const node of root.querySelectorAll('[data-live-width]')) {
    const share = Number(read(state, node.dataset.liveWidth) ?? 0)
    node.style.width = `${(100 * share).toFixed(1)}%`
    node.parentElement.setAttribute('aria-valuenow', String(Math.round(100 * share)))
  }
  for (const node of root.querySelectorAll('[data-warn]')) {
    node.classList.toggle('warned', Number(read(state, node.dataset.warn) ?? 0) > Number(node.dataset.warnAbove))
  }
}

/** Return a field; `NaN` for a metric whose newest value is not finite, null for what is unknown. */
function read(state, field) {
  if (!field.includes('/')) return state[field] ?? null
  if (!(field in (state.metrics ?? {}))) return null
  return state.metrics[field] ?? NaN
}

function format(state, field, as) {
  const value = read(state, field)
  return Number.isNaN(value) ? 'NaN' : formatAs(value, as)
}

function fillTemplate(template, state) {
  let known = true
  const line = template.replace(/\{([^}]+)\}/g, (_, field) => {
    const value = read(state, field)
    if (value === null) known = false
    return formatAs(value, FORMATS[field] ?? (Number.isInteger(value) ? 'integer' : 'auto'))
  })
  return known ? line : ''
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text
}
