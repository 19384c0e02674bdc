// Actions: a press becomes one request with an idempotency key. A lost connection or a restarted server repeats it with
// the same key, so that it is done once and its answer arrives.

import { siteUrl } from './site.js'

const GIVE_UP_MS = 120_000
const LONGEST_PAUSE_MS = 2_000
const MOST_KEPT_ALIVE = 20_000 // characters: browsers refuse requests that outlive their page and have more than 64 KiB

/** Return a fresh idempotency key. */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** Do the action and return its answer: `{run, …}`, or `{problem, traceback}` with the sentence for the person. */
export async function act(name, payload, key = newKey()) {
  const deadline = Date.now() + GIVE_UP_MS
  let pause = 200
  for (;;) {
    const response = await ask(name, payload, key)
    if (response && response.status !== 202 && !(response.status >= 502 && response.status <= 504)) {
      return read(response)
    }
    if (response?.status === 202) continue
    if (Date.now() > deadline) return { problem: 'The dashboard cannot be reached. Start it again, then try once more.' }
    await new Promise((done) => setTimeout(done, pause))
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS)
  }
}

async function ask(name, payload, key) {
  const body = JSON.stringify(payload)
  try {
    return await fetch(siteUrl(`/actions/${name}`), {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key },
      body,
      keepalive: body.length < MOST_KEPT_ALIVE, // a press on a page that is being left still counts
    })
  } catch {
    return null
  }
}

async function read(response) {
  const text = await response.text()
  try {
    return JSON.parse(text)
  } catch {
    return { problem: text.trim() || `The dashboard answered with the status ${response.status}.` }
  }
}
