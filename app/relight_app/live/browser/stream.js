// The event stream of this tab, shared by all charts and values. It is closed while the tab is hidden, so that a
// forgotten tab costs nothing; charts read what they missed from the history when the tab is shown again.

import { siteUrl } from './site.js'

const SETTLE_MS = 20 // the components of a page appear within this time and get one stream
const SHRINK_MS = 5000 // people often return to a page that they have just left
const LONGEST_RETRY_MS = 5000

const subscribers = new Set()
const states = new Map()
const changes = new Map()
let source = null
let covered = null
let opening = 0
let shrinking = 0
let retry = 0
let retryMs = 500
let connection = 'connecting'

/**
 * Subscribe to runs, `watch`: {run: [stream, …]}; with `listing` to the list of runs, with `machine` to the machine's
 * figures, and with `jobs` to the server's work. Handlers, all optional: onHello({run, positions}), onRows(rows),
 * onReset({run}), onState(state), onGone({run}), onChanged({run, topics}), onMachine(report),
 * onConnection('connecting' | 'open' | 'lost'). Returns a function that ends the subscription.
 */
export function subscribe({ watch = {}, machine = false, listing = false, jobs = false, ...handlers }) {
  const subscriber = { watch, machine, listing, jobs, ...handlers }
  subscribers.add(subscriber)
  subscriber.onConnection?.(connection)
  for (const run of Object.keys(watch)) {
    if (source && states.has(run)) subscriber.onState?.(states.get(run))
    if (source && changes.has(run)) subscriber.onChanged?.(changes.get(run))
  }
  if (source && changes.has('')) subscriber.onChanged?.(changes.get(''))
  schedule()
  return () => {
    subscribers.delete(subscriber)
    schedule()
  }
}

function schedule() {
  clearTimeout(opening)
  opening = setTimeout(settle, SETTLE_MS)
}

/** Open, reopen or close the stream to match the subscribers and the tab's visibility. */
function settle() {
  const wanted = collect()
  if (document.hidden || isEmpty(wanted)) {
    close()
    return
  }
  if (source && covers(covered, wanted)) {
    clearTimeout(shrinking)
    if (address(covered) !== address(wanted)) shrinking = setTimeout(() => open(collect()), SHRINK_MS)
    return
  }
  open(wanted)
}

function collect() {
  const runs = new Map()
  let [machine, listing, jobs] = [false, false, false]
  for (const subscriber of subscribers) {
    machine ||= subscriber.machine
    listing ||= subscriber.listing
    jobs ||= subscriber.jobs
    for (const [run, streams] of Object.entries(subscriber.watch)) {
      if (!runs.has(run)) runs.set(run, new Set())
      for (const stream of streams) runs.get(run).add(stream)
    }
  }
  return { runs, machine, listing, jobs }
}

function isEmpty({ runs, machine, listing, jobs }) {
  return !runs.size && !machine && !listing && !jobs
}

function covers(had, wanted) {
  if ((wanted.machine && !had.machine) || (wanted.listing && !had.listing)) return false
  for (const [run, streams] of wanted.runs) {
    const known = had.runs.get(run)
    if (!known) return false
    for (const stream of streams) if (!known.has(stream)) return false
  }
  return true
}

function address({ runs, machine, listing }) {
  const query = new URLSearchParams()
  for (const run of [...runs.keys()].sort()) query.append('watch', `${run}/${[...runs.get(run)].sort().join(',')}`)
  if (machine) query.append('machine', '1')
  if (listing) query.append('listing', '1')
  return siteUrl(`/api/stream?${query}`)
}

function open(wanted) {
  close()
  if (document.hidden || isEmpty(wanted)) return
  covered = wanted
  const opened = new EventSource(new URL(address(wanted), location.origin))
  source = opened
  const listen = (name, handle) =>
    opened.addEventListener(name, (event) => source === opened && handle(JSON.parse(event.data)))
  opened.onopen = () => {
    retryMs = 500
    setConnection('open')
  }
  opened.onerror = () => {
    if (source !== opened) return
    setConnection('lost')
    // The browser reconnects after a broken connection, but not after a response that is not an event stream.
    if (opened.readyState === EventSource.CLOSED) {
      close()
      retry = setTimeout(settle, retryMs)
      retryMs = Math.min(retryMs * 2, LONGEST_RETRY_MS)
    }
  }
  listen('hello', (hello) => tell('onHello', hello))
  listen('rows', (rows) => tell('onRows', rows))
  listen('reset', (reset) => tell('onReset', reset))
  listen('state', (state) => {
    states.set(state.run, state)
    tell('onState', state)
  })
  listen('gone', (gone) => {
    states.delete(gone.run)
    tell('onGone', gone)
  })
  listen('changed', (changed) => {
    changes.set(changed.run, changed)
    for (const subscriber of [...subscribers]) {
      if (changed.run === '' || changed.run in subscriber.watch) subscriber.onChanged?.(changed)
    }
  })
  listen('machine', (report) => subscribers.forEach((subscriber) => subscriber.onMachine?.(report)))
  listen('bye', () => setConnection('lost'))
}

function close() {
  clearTimeout(shrinking)
  clearTimeout(retry)
  source?.close()
  source = null
  covered = null
  states.clear()
  changes.clear()
}

function tell(handler, event) {
  for (const subscriber of [...subscribers]) if (event.run in subscriber.watch) subscriber[handler]?.(event)
}

function setConnection(now) {
  if (now === connection) return
  connection = now
  subscribers.forEach((subscriber) => subscriber.onConnection?.(now))
}

document.addEventListener('visibilitychange', settle)
window.addEventListener('pageshow', settle)
window.addEventListener('pagehide', close)
