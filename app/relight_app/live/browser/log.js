// The tools above a log: search, the last error, wrapping, and following its end.

const ERROR = /^(?:Traceback \(most recent call last\)|.*\b(?:Error|Exception|FATAL|CRITICAL)\b.*)$/m
const WRAP_KEY = 'relight-log-wrap'
const MOST_FOUND = 2000

const found = new WeakMap() // by log: {text, ranges, at}

/** Handle a click on one of the tools. */
export function useTool(button) {
  const log = button.closest('.log-part').querySelector('.log')
  if (button.dataset.log === 'end') log.scrollTop = log.scrollHeight
  if (button.dataset.log === 'wrap') {
    localStorage.setItem(WRAP_KEY, localStorage.getItem(WRAP_KEY) === '1' ? '' : '1')
    showLogs(button.getRootNode())
  }
  if (button.dataset.log === 'error') {
    const lines = log.textContent.split('\n')
    const traceback = lines.findLastIndex((line) => line.startsWith('Traceback (most recent call last)'))
    const line = traceback >= 0 ? traceback : lines.findLastIndex((text) => ERROR.test(text))
    if (line >= 0) scrollTo(log, lines.slice(0, line).join('\n').length + (line ? 1 : 0))
  }
}

/** Search for what was typed; with `step`, go to the next or previous place. */
export function search(input, step = 0) {
  const part = input.closest('.log-part')
  const log = part.querySelector('.log')
  const before = found.get(log)
  const ranges = find(log, input.value)
  const same = before?.text === input.value
  const at = ranges.length ? ((same ? before.at : ranges.length - 1) + step + ranges.length) % ranges.length : 0
  found.set(log, { text: input.value, ranges, at })
  mark(ranges, at)
  part.querySelector('[data-log-count]').textContent = input.value ? (ranges.length ? `${at + 1} of ${ranges.length}` : 'nothing found') : ''
  if (ranges.length && (step || !same)) show(log, ranges[at])
}

/** Do again for new markup what the person has chosen. */
export function showLogs(root) {
  const wrap = localStorage.getItem(WRAP_KEY) === '1'
  for (const part of root.querySelectorAll('.log-part')) {
    part.querySelector('.log').classList.toggle('wrap', wrap)
    part.querySelector('[data-log=wrap]').setAttribute('aria-pressed', String(wrap))
    const input = part.querySelector('[data-log-search]')
    if (input.value) search(input)
  }
}

function find(log, text) {
  const ranges = []
  if (!text) return ranges
  const wanted = text.toLowerCase()
  const walker = document.createTreeWalker(log, NodeFilter.SHOW_TEXT)
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const data = node.data.toLowerCase()
    for (let at = data.indexOf(wanted); at >= 0 && ranges.length < MOST_FOUND; at = data.indexOf(wanted, at + wanted.length)) {
      const range = new Range()
      range.setStart(node, at)
      range.setEnd(node, Math.min(at + wanted.length, node.length))
      ranges.push(range)
    }
  }
  return ranges
}

function mark(ranges, at) {
  if (!CSS.highlights) return
  CSS.highlights.set('relight-found', new Highlight(...ranges.filter((_, index) => index !== at)))
  CSS.highlights.set('relight-current', new Highlight(...ranges.slice(at, at + 1)))
}

function scrollTo(log, offset) {
  const walker = document.createTreeWalker(log, NodeFilter.SHOW_TEXT)
  for (let node = walker.nextNode(), passed = 0; node; passed += node.length, node = walker.nextNode()) {
    if (passed + node.length < offset) continue
    const range = new Range()
    range.setStart(node, offset - passed)
    range.setEnd(node, Math.min(node.length, offset - passed + 1))
    show(log, range)
    return
  }
}

function show(log, range) {
  const box = range.getBoundingClientRect()
  log.scrollTop += box.top - log.getBoundingClientRect().top - 24
}
