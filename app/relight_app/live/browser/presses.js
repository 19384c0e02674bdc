// Presses of buttons and forms that act: the button is busy at once, and stays so until the page shows the result.

import { act } from './actions.js'
import { ask, tell } from './dialogs.js'
import { open } from './navigate.js'

const LEAVING_MS = 5_000

const pending = new Set() // what was pressed and has not been answered

const nameOf = (button) => `${button.dataset.act} ${button.dataset.payload ?? ''}`

/** Mark the buttons whose press is on its way. */
export function showPresses(root) {
  for (const button of root.querySelectorAll('[data-act]')) {
    const busy = pending.has(nameOf(button))
    if (busy !== button.hasAttribute('data-busy')) button.toggleAttribute('data-busy', busy)
    if (busy) button.setAttribute('aria-disabled', 'true')
    else if (button.getAttribute('aria-disabled') === 'true' && !('refused' in button.dataset)) button.removeAttribute('aria-disabled')
  }
}

/**
 * Do what a button or form asks for. `data-confirm` asks first, and `data-then` is the address to go to afterwards,
 * with {run} filled in. `page.refresh` shows the result, and `page.shows(text)` says whether the page already tells it.
 */
export async function press(button, root, page, further = {}) {
  const name = nameOf(button)
  if (pending.has(name)) return null
  if (button.dataset.confirm && !(await ask(root, button.dataset))) return null
  if (pending.has(name)) return null
  pending.add(name)
  showPresses(root)
  const { act: action, then } = button.dataset
  const payload = { ...JSON.parse(button.dataset.payload ?? '{}'), ...further }
  let answer
  try {
    answer = await act(action, payload)
    if (answer.ask === 'trust' && (await ask(root, { confirm: answer.problem, confirmTitle: 'Run code from elsewhere?', confirmYes: 'Trust and continue' }))) {
      answer = await act(action, { ...payload, trust: true })
    }
    if (!answer.problem && then) await leave(then.replace('{run}', encodeURIComponent(answer.run ?? '')), root)
    else await page.refresh()
  } finally {
    pending.delete(name)
    showPresses(root)
  }
  if (answer.problem && answer.ask !== 'trust' && !page.shows(answer.problem)) tell(root, answer)
  return answer
}

/** Go to another page; until it has come, the button that led there stays busy, so that nobody presses it again. */
async function leave(href, root) {
  open(href)
  const deadline = Date.now() + LEAVING_MS
  while (root.isConnected && Date.now() < deadline) await new Promise((done) => setTimeout(done, 50))
}
