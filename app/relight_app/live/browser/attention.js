// What a tab in the background says: its title, its icon, and, when the person has asked for it, a notification for each
// run that dies or finishes.

import { siteUrl } from './site.js'

const KEY = 'relight-notify'
const COLORS = { crashed: '#ef4444', running: '#3b82f6' }

let base = null
let shown = null
let known = null
let latest = {}

/** Follow a part that says how things stand: `data-title`, `data-state`, and `data-ended` as JSON. */
export function attend(told) {
  const { title, state, ended } = told
  latest = { ...latest, ...told }
  if (title && document.title !== title) document.title = title
  if (state !== undefined) showIcon(state)
  if (ended !== undefined) notify(JSON.parse(ended))
}

/** Say it again, after Streamlit has set the title and the icon. */
export function attendAgain() {
  shown = null
  attend({ title: latest.title, state: latest.state })
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

function notify(ended) {
  const before = known
  known = new Map(ended.map((run) => [run.key, run]))
  if (!before || !areOn()) return
  for (const [key, run] of known) {
    if (before.has(key)) continue
    const notification = new Notification(`${run.name} ${run.status}`, { body: run.reason, tag: key })
    notification.onclick = () => window.focus()
  }
}

async function showIcon(state) {
  if (state === shown) return
  shown = state
  const link = document.querySelector('link[rel~=icon]')
  if (!link) return
  base ??= await fetch(siteUrl('/assets/icon.svg')).then((response) => (response.ok ? response.text() : ''))
  if (shown !== state) return
  if (!base.includes('<svg')) return
  const dot = COLORS[state] ? `<circle cx="25" cy="25" r="7" fill="${COLORS[state]}" stroke="#fff" stroke-width="1.5"/>` : ''
  link.href = `data:image/svg+xml,${encodeURIComponent(base.replace('</svg>', `${dot}</svg>`))}`
}
