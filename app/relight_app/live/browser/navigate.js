// The address of the page: going to another page, and changing the query of this one.

import { siteUrl } from './site.js'

const LOOK_MS = 500

let shown = null // the address of what Streamlit has mounted
let differsSince = 0
let pause = 2 * LOOK_MS
let timer = 0
let departures = 0

addEventListener('click', (event) => (departures += leadsAway(event)), true)
addEventListener('popstate', (event) => (departures += event.isTrusted))

function leadsAway(event) {
  const link = event.composedPath().find((one) => one.nodeName === 'A' && one.href)
  if (!link || link.target || link.hasAttribute('download') || link.origin !== location.origin) return false
  return !(event.button || event.ctrlKey || event.metaKey || event.shiftKey)
}

/** Return how often the person has gone to another page in this tab. The page that is left stays until that has come. */
export function countDepartures() {
  return departures
}

/** Go to a page of this site without a reload: Streamlit follows the address as it does for the Back button. */
export function open(href) {
  if (document.getElementById('relight-first')) return location.assign(href) // Streamlit does not follow yet
  history.pushState(null, '', href)
  window.dispatchEvent(new PopStateEvent('popstate'))
}

/** Note what Streamlit has mounted, and from then on see to it that this is what the address names. */
export function noteShown({ page, id }) {
  shown = JSON.stringify([page, id])
  timer ||= setInterval(follow, LOOK_MS)
}

/** Ask Streamlit for the page again: it drops such a request while the server restarts, and never repeats it. */
function follow() {
  const page = location.pathname.slice(siteUrl('/').length).replace(/\/$/, '')
  if (shown === JSON.stringify([page, readQuery().get('id') ?? ''])) {
    differsSince = 0
    pause = 2 * LOOK_MS
    return
  }
  const { testConnectionState, testScriptState } = document.querySelector('[data-testid="stApp"]')?.dataset ?? {}
  if (testConnectionState !== 'CONNECTED' || testScriptState !== 'notRunning') differsSince = 0
  else differsSince ||= Date.now()
  if (!differsSince || Date.now() - differsSince < pause) return
  differsSince = 0
  pause *= 2 // an address without a page never comes
  window.dispatchEvent(new PopStateEvent('popstate'))
}

/** Return the query of the address. */
export function readQuery() {
  return new URLSearchParams(location.search)
}

/** Change values of the query; null and '' remove one. Returns whether anything changed. */
export function changeQuery(changes) {
  const query = readQuery()
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === '') query.delete(name)
    else query.set(name, value)
  }
  const text = query.toString()
  if (text === readQuery().toString()) return false
  history.replaceState(history.state, '', location.pathname + (text && `?${text}`) + location.hash)
  return true
}
