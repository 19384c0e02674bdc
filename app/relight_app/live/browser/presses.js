// Presses of buttons and forms that act: the button is busy at once, and stays so until the page shows the result.

import { act } from './actions.js'
import { ask, clear, tell } from './dialogs.js'
import { countDepartures, open } from './navigate.js'

const LEAVING_MS = 5_000
const AT_ONCE = 4

const pending = new Set() // what was pressed and has not been answered

const nameOf = (button, action = button.dataset.act ?? button.dataset.each) => `${action} ${button.dataset.payload ?? ''}`
const asks = ({ confirm, confirmPart, field }) => Boolean(confirm || confirmPart || field)

/** Mark the buttons whose press is on its way. */
export function showPresses(root) {
  for (const button of root.querySelectorAll('[data-act], [data-each]')) {
    const submit = button.querySelector('[data-submit]') // a second button of a form
    if (submit) submit.toggleAttribute('data-busy', pending.has(nameOf(button, submit.dataset.submit)))
    const busy = pending.has(nameOf(button))
    if (busy !== button.hasAttribute('data-busy')) button.toggleAttribute('data-busy', busy)
    if (busy) button.setAttribute('aria-disabled', 'true')
    else if (button.getAttribute('aria-disabled') === 'true' && !('refused' in button.dataset)) button.removeAttribute('aria-disabled')
  }
}

/**
 * Do what a button or form asks for. `data-confirm`, `data-confirm-part` and `data-field` ask first (see dialogs.js), and
 * `data-then` is the address to go to afterwards, with {run} filled in, unless the person has left the page already.
 * `page.refresh` shows the result, `page.shows(text)` says whether the page already tells it, and `page.findRoot` finds
 * where the page that is open now can tell it. Returns the answer, null when nothing was done.
 */
export async function press(button, root, page, further = {}, action = button.dataset.act) {
  const payload = { ...JSON.parse(button.dataset.payload ?? '{}'), ...further }
  const then = action === button.dataset.act ? button.dataset.then : null
  const departures = countDepartures()
  return once(nameOf(button, action), button, root, async (typed) => {
    let answer = await act(action, { ...payload, ...typed })
    if (answer.ask === 'trust' && root.isConnected) {
      const question = { confirm: answer.problem, confirmTitle: 'Run code from elsewhere?', confirmYes: 'Trust and continue' }
      if (!(await ask(root, question))) return answer
      answer = await act(action, { ...payload, ...typed, trust: true })
    }
    const stays = root.isConnected && departures === countDepartures()
    if (!answer.problem && then && stays) await leave(then.replace('{run}', encodeURIComponent(answer.run ?? '')), root)
    else await page.refresh()
    if (!answer.problem) clear(root)
    else if (!page.shows(answer.problem)) tell(root.isConnected ? root : page.findRoot() ?? root, answer)
    return answer
  })
}

/** Do the action of `data-each` for each of these runs. */
export async function pressForEach(button, runs, root, page) {
  const payload = JSON.parse(button.dataset.payload ?? '{}')
  return once(nameOf(button), button, root, async (typed) => {
    const waiting = [...runs]
    const problems = []
    const work = async () => {
      for (let run = waiting.shift(); run !== undefined; run = waiting.shift()) {
        const answer = await act(button.dataset.each, { ...payload, ...typed, run })
        if (answer.problem) problems.push(answer.problem)
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, work))
    await page.refresh()
    for (const problem of [...new Set(problems)].slice(0, 5)) tell(root, { problem })
    return { problems }
  })
}

async function once(name, button, root, work) {
  if (pending.has(name)) return null
  const typed = asks(button.dataset) ? await ask(root, button.dataset) : {}
  if (typed === null || pending.has(name)) return null
  pending.add(name)
  showPresses(root)
  try {
    return await work(typed)
  } finally {
    pending.delete(name)
    showPresses(root)
  }
}

/** Go to another page; until it has come, the button that led there stays busy, so that nobody presses it again. */
async function leave(href, root) {
  open(href)
  const deadline = Date.now() + LEAVING_MS
  while (root.isConnected && Date.now() < deadline) await new Promise((done) => setTimeout(done, 50))
}
