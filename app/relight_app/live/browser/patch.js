// Changes a tree in place until it equals another: scroll, focus, selection, open menus and what was typed survive.
// Elements with `data-key` keep their identity when they move.

const keyOf = (node) => (node.nodeType === 1 ? node.dataset.key : undefined)
const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b)

const OURS = ['live', 'template', 'preview', 'own']

/** Whether the browser owns the content of an element: an age, a live figure, a command, a count. */
const isOurs = (node) => node.nodeName === 'TIME' || OURS.some((name) => name in node.dataset)

function patch(node, wanted) {
  if (node.nodeType !== 1) {
    if (node.data !== wanted.data) node.data = wanted.data
    return
  }
  // What the person opens and closes, not the server:
  const kept = node.nodeName === 'DETAILS' ? 'open' : 'menu' in node.dataset ? 'aria-expanded' : null
  for (const { name } of [...node.attributes]) {
    if (!wanted.hasAttribute(name) && name !== kept && name !== 'style') node.removeAttribute(name)
  }
  for (const { name, value } of wanted.attributes) {
    if (name !== kept && node.getAttribute(name) !== value) node.setAttribute(name, value)
  }
  if (!isOurs(node)) patchChildren(node, wanted)
}

/** Make the children of `node` equal to those of `wanted`. */
export function patchChildren(node, wanted) {
  const keyed = new Map()
  for (const child of node.childNodes) if (keyOf(child) !== undefined) keyed.set(keyOf(child), child)
  let current = node.firstChild
  for (const next of [...wanted.childNodes]) {
    const match = keyOf(next) === undefined ? (current && alike(current, next) ? current : null) : keyed.get(keyOf(next))
    if (match && alike(match, next)) {
      if (match === current) current = current.nextSibling
      else if (node.moveBefore) node.moveBefore(match, current) // keeps focus and open menus; not every browser has it
      else node.insertBefore(match, current)
      patch(match, next)
    } else {
      node.insertBefore(next, current)
    }
  }
  while (current) {
    const gone = current
    current = current.nextSibling
    gone.remove()
  }
}
