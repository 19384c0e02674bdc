// Knows whether the person is leaving the page. Streamlit (1.67) shows the page that requested a rerun last, so a rerun
// requested by a live value between a click on a link and the start of the new page would undo that click.

const LONGEST_MS = 10_000 // after this time, assume that the click led nowhere
const LONGEST_BACK_MS = 2_000 // the Back button often stays on the page

let until = 0

/** Return for how many ms no rerun may be requested; 0 while nobody is leaving. */
export function leavingMs() {
  return Math.max(0, until - performance.now())
}

/** Note that another page, or this one with another run, has arrived. */
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
