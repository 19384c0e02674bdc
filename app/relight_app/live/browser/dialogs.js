// Questions and problems above the page.

import { siteUrl } from './site.js'

const make = (name, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(name), properties)
  node.append(...children)
  return node
}

/**
 * Ask before something is done. `confirm` is the question, or `confirmPart` the address of a part that shows it. With
 * `field`, the person types a text: `fieldLabel`, `fieldValue`, and `fieldLines` for several lines.
 * Resolves to null when the person does not want it, else to what was typed: {[field]: text}, or {}.
 */
export async function ask(root, question) {
  const { confirm, confirmPart, confirmTitle = 'Are you sure?', confirmYes = 'Continue', confirmNo = 'Cancel', field } = question
  const body = confirmPart ? await fetchPart(confirmPart) : make('p', { textContent: confirm ?? '' })
  const no = make('button', { type: 'button', className: 'button', textContent: confirmNo })
  const yes = make('button', { type: 'submit', className: 'button solid', textContent: confirmYes })
  const title = make('h2', { textContent: confirmTitle, id: 'dialog-title' })
  const input = field ? make(question.fieldLines ? 'textarea' : 'input', { value: question.fieldValue ?? '', rows: 6 }) : null
  const form = make('form', { method: 'dialog', className: 'stack' }, title, body)
  if (input) form.append(make('label', { className: 'field' }, make('span', { textContent: question.fieldLabel ?? '' }), input))
  form.append(make('div', { className: 'row end' }, no, yes))
  const dialog = make('dialog', { className: 'dialog' }, form)
  dialog.setAttribute('aria-labelledby', 'dialog-title')
  return new Promise((resolve) => {
    dialog.onclose = () => {
      dialog.remove()
      resolve(dialog.returnValue === 'yes' ? (input ? { [field]: input.value } : {}) : null)
    }
    no.onclick = () => dialog.close('no')
    form.onsubmit = (event) => {
      event.preventDefault()
      event.stopPropagation()
      dialog.close('yes')
    }
    dialog.onclick = (event) => {
      event.stopPropagation()
      if (event.target === dialog) dialog.close('no')
    }
    dialog.onkeydown = (event) => event.stopPropagation()
    root.append(dialog)
    dialog.showModal()
    ;(input ?? no).focus()
    input?.select()
  })
}

async function fetchPart(address) {
  const body = make('div', { className: 'stack' })
  try {
    body.innerHTML = await (await fetch(siteUrl(address))).text()
  } catch {
    body.textContent = 'The dashboard cannot be reached.'
  }
  return body
}

/** Show a problem until the person closes it. */
export function tell(root, { problem, traceback }) {
  let box = root.querySelector('.toasts')
  if (!box) root.append((box = make('div', { className: 'toasts' })))
  const close = make('button', { type: 'button', className: 'icon-button', textContent: '✕' })
  close.setAttribute('aria-label', 'Close')
  const toast = make('div', { className: 'notice bad toast' }, make('div', { className: 'row nowrap' }, make('div', { textContent: problem, className: 'grow' }), close))
  toast.setAttribute('role', 'alert')
  if (traceback) {
    toast.append(make('details', {}, make('summary', { textContent: 'Traceback' }), make('pre', { className: 'text', textContent: traceback })))
  }
  close.onclick = () => toast.remove()
  box.append(toast)
}

/** Take away the problems that are shown: what the person did next has worked. */
export function clear(root) {
  root.querySelector('.toasts')?.remove()
}
