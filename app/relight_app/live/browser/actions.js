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
    const answer = await ask(name, payload, key)
    if (answer?.status === 202) continue
    if (answer && !(answer.status >= 502 && answer.status <= 504)) return read(answer)
    if (Date.now() > deadline) return { problem: 'The dashboard cannot be reached. Start it again, then try once more.' }
    await new Promise((done) => setTimeout(done, pause))
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS)
  }
}

/** Ask once; returns null if the server was away, even if it went while it answered. */
async function ask(name, payload, key) {
  const body = JSON.stringify(payload)
  try {
    const response = await fetch(siteUrl(`/actions/${name}`), {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key },
      body,
      keepalive: body.length < MOST_KEPT_ALIVE, // a press on a page that is being left still counts
    })
    return { status: response.status, text: await response.text() }
  } catch {
    return null
  }
}

function read({ status, text }) {
  try {
    return JSON.parse(text)
  } catch {
    return { problem: text.trim() || `The dashboard answered with the status ${status}.` }
  }
}
