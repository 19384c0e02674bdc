// The fields of a form that acts. `name="config.lr"` belongs into `config`; `data-default` is the text that leaving a
// field out stands for, so only what differs from it is sent. An emptied field is left out too, unless `data-send-empty`.
// What is in `data-only="on=slurm"` counts, and is seen, only while the field `on` has that value.

import { siteUrl } from './site.js'

const PREVIEW_MS = 120

/** Return the fields of a form as the payload of its action. */
export function readFields(form) {
  const payload = {}
  for (const field of form.elements) {
    if (!field.name || (field.type === 'radio' && !field.checked) || !counts(field)) continue
    const value = field.type === 'checkbox' ? String(field.checked) : field.value.trim()
    const [group, key] = field.name.includes('.') ? [field.name.slice(0, field.name.indexOf('.')), field.name.slice(field.name.indexOf('.') + 1)] : ['', field.name]
    if (!isSent(field, value)) continue
    if (group) (payload[group] ??= {})[key] = value
    else payload[key] = value
  }
  return payload
}

/** Whether the field, or what has it, belongs to what the form says; a form without the other field takes it as said. */
function counts(node) {
  const box = node.closest('[data-only]')
  const [name, value] = box?.dataset.only.split('=') ?? []
  return (box?.closest('form').elements[name]?.value ?? value) === value
}

function isSent(field, value) {
  if (value === '' && !('sendEmpty' in field.dataset)) return false
  return !('default' in field.dataset) || value !== field.dataset.default
}

let timer = 0

/** Mark what differs from its default, and show the command that does the same. */
export function showFields(root) {
  for (const form of root.querySelectorAll('form[data-act]')) {
    for (const box of form.querySelectorAll('[data-only]')) box.hidden = !counts(box)
    for (const field of form.elements) {
      if (field.name && 'mark' in field.dataset) field.closest('.field')?.classList.toggle('changed', isSent(field, field.value.trim()))
    }
  }
  clearTimeout(timer)
  timer = setTimeout(() => preview(root), PREVIEW_MS)
}

async function preview(root) {
  for (const place of root.querySelectorAll('[data-preview]')) {
    const form = place.closest('form')
    const payload = { ...JSON.parse(form.dataset.payload ?? '{}'), ...readFields(form) }
    try {
      const response = await fetch(siteUrl(`/parts/${place.dataset.preview}?${new URLSearchParams({ request: JSON.stringify(payload) })}`))
      if (!response.ok) continue
      const text = await response.text()
      if (place.innerHTML !== text) place.innerHTML = text
    } catch { // the server is gone, and the page says so
    }
  }
}
