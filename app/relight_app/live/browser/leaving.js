// Whether the page is being left. Streamlit (1.67) shows the page that asked for a rerun last: what a live value asks
// for between a click on a link and the first word of the new page would take that click back.

const LONGEST_MS = 10_000 // a page that is still here after so long was not left
const LONGEST_BACK_MS = 2_000 // the browser's "back" often stays on the page

let until = 0

/** How long no rerun may be asked for, in ms; 0 while the page stays. */
export function leavingMs() {
  return Math.max(0, until - performance.now())
}

/** Another page is here, or this one with another run. */
export function arrived() {
  until = 0
}

document.addEventListener('click', (event) => {
  const link = event.composedPath().find((node) => node.nodeName === 'A')
  if (!link || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return
  if (link.target || link.hasAttribute('download') || !link.href || link.href === location.href) return
  if (new URL(link.href).origin === location.origin) until = performance.now() + LONGEST_MS
}, { capture: true })

window.addEventListener('popstate', () => {
  until = performance.now() + LONGEST_BACK_MS
}, { capture: true })
