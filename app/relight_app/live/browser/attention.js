// What a tab in the background says: its title, its icon, and, when the person has asked for it, a notification for each
// run that dies or finishes. parts.js asks for what is needed while the tab is hidden.

import { siteUrl } from './site.js'

const KEY = 'relight-notify'
const COLORS = { crashed: '#ef4444', running: '#3b82f6' }

let base = null
let shown = null
let latest = {}
const known = new Set() // the ends that this tab has shown or told
let attended = null

/**
 * Follow a part that says how things stand: `data-title`, `data-state`, and `data-ended` as JSON. `what` names it. When it
 * is shown for the first time since another, the person sees what has ended, so there is no notification. Streamlit may
 * mount the same page again at any time: that is not the first time.
 */
export function attend(told, what) {
  const { title, state, ended } = told
  const first = what !== attended
  attended = what
  latest = { ...latest, ...told }
  if (title && document.title !== title) document.title = title
  if (state !== undefined) showIcon(state)
  for (const run of JSON.parse(ended ?? '[]')) {
    if (!first && !known.has(run.key)) notify(run)
    known.add(run.key)
  }
}

/** Say it again, after Streamlit has set the title and the icon. */
export function attendAgain() {
  shown = null
  attend({ title: latest.title, state: latest.state }, attended)
}

/** Ask the browser for notifications, or stop them; returns whether they are on. */
export async function toggleNotifications() {
  if (areOn()) {
    localStorage.removeItem(KEY)
    return false
  }
  const permission = 'Notification' in window ? await Notification.requestPermission() : 'denied'
  if (permission === 'granted') localStorage.setItem(KEY, '1')
  return areOn()
}

/** Whether the person has asked for notifications. */
export function areOn() {
  return 'Notification' in window && Notification.permission === 'granted' && localStorage.getItem(KEY) === '1'
}

function notify({ key, name, status, reason }) {
  if (!areOn()) return
  const notification = new Notification(`${name} ${status}`, { body: reason, tag: key })
  notification.onclick = () => window.focus()
}

async function showIcon(state) {
  if (state === shown) return
  shown = state
  const link = document.querySelector('link[rel~=icon]')
  if (!link) return
  try {
    base ??= await fetch(siteUrl('/assets/icon.svg')).then((response) => (response.ok ? response.text() : null))
  } catch { // the server is gone
  }
  if (shown !== state) return
  if (!base?.includes('<svg')) {
    shown = null // try again with the next answer
    return
  }
  const dot = COLORS[state] ? `<circle cx="25" cy="25" r="7" fill="${COLORS[state]}" stroke="#fff" stroke-width="1.5"/>` : ''
  link.href = `data:image/svg+xml,${encodeURIComponent(base.replace('</svg>', `${dot}</svg>`))}`
}
