// Keys of the whole page, none of them while a person types: / searches, j and k walk through the list, Enter opens,
// r resumes, s stops, c compares, x selects, and ? shows all of them. In a list, r and s need a row with the focus.

import { show as showHelp } from './key_help.js'

const LINKS = 'tr[data-key] a.open' // of the runs in a list
const BUTTONS = { r: '[data-key-r]', s: '[data-key-s]', c: '[data-key-c]' }

/** Handle a key that was pressed anywhere on the page. */
export function onPageKey(event, root) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || isTyping(event)) return
  const { key } = event
  if (key === '/') {
    const search = root.querySelector('[type=search]')
    if (!search) return
    search.focus()
    search.select()
  } else if (key === 'j' || key === 'k') {
    if (!walk(root, key === 'j' ? 1 : -1)) return
  } else if (key === 'x') {
    const box = rowOf(root)?.querySelector('[data-select]')
    if (!box) return
    box.click()
  } else if (key === '?') {
    if (!root.querySelector('.part') || document.querySelector('dialog[open]')) return
    if (event.helped) return
    event.helped = true
    showHelp(root)
  } else if (key in BUTTONS) {
    const place = key === 'c' ? root : (rowOf(root) ?? (root.querySelector(LINKS) ? null : root))
    const button = place?.querySelector(BUTTONS[key])
    if (!button || button.closest('[hidden]')) return
    button.click()
  } else {
    return
  }
  event.preventDefault()
}

function isTyping(event) {
  const node = event.composedPath()[0]
  if (node.closest?.('dialog, [role=menu]')) return true
  return node.isContentEditable || node.nodeName === 'TEXTAREA' || node.nodeName === 'SELECT' || (node.nodeName === 'INPUT' && node.type !== 'checkbox')
}

const rowOf = (root) => root.getRootNode().activeElement?.closest('tr[data-key]:has(a.open)')

/** Move the focus to the link of the next row; returns whether there is a list. */
function walk(root, by) {
  const links = [...root.querySelectorAll(LINKS)]
  if (!links.length) return false
  const at = links.findIndex((link) => link.closest('tr') === rowOf(root))
  links[Math.min(Math.max(at + by, 0), links.length - 1)].focus()
  return true
}
