// Makes a page live before Streamlit has started. The server sends the page's components with it, in #relight-first; this
// module gives each of them to its own module at once, and starts Streamlit when they have been drawn. When Streamlit has
// mounted the same components, everything moves there, with its state, and #relight-first goes.

import { attendAgain } from './attention.js'
import { noteShown } from './navigate.js'

const CHARTS_MS = 1000 // Streamlit starts by then, even if no chart could be drawn
const ALL_MS = 1000 // components of a page come together
const RETRY_MS = 1000
const FILLED = '.view, .relight-board'

const first = document.getElementById('relight-first')
const hosts = first ? [...first.querySelectorAll('[data-mount]')].map((element) => ({ element, data: JSON.parse(element.dataset.mount) })) : []
let handOver
let timer = 0
const handedOver = first ? new Promise((resolve) => (handOver = () => (move(), resolve()))) : null

/** Wait until what the page showed before Streamlit is in the components that Streamlit has mounted. */
export function takeOver({ data, parentElement }) {
  noteShown(data)
  if (!first?.isConnected) return Promise.resolve()
  const host = hosts.find((one) => identify(one.data) === identify(data))
  if (host) host.target = parentElement
  timer ||= setTimeout(handOver, ALL_MS)
  if (hosts.every(({ target }) => target)) handOver()
  return handedOver
}

const identify = ({ module, parts, run }) => JSON.stringify([module, parts, run])
const inner = (element) => element.firstElementChild.shadowRoot ?? element.firstElementChild

function move() {
  if (!first.isConnected) return
  clearTimeout(timer)
  const focused = findFocus()
  const { scrollTop } = first
  for (const { element, target, module } of hosts) {
    const filled = inner(element).querySelector(FILLED)
    const place = target?.querySelector(FILLED)
    if (!place) {
      module?.remove({ parentElement: inner(element) })
      continue
    }
    // `moveBefore` keeps focus, open dialogs and menus; not every browser has it.
    if (place.parentNode.moveBefore) place.parentNode.moveBefore(filled, place)
    else place.before(filled)
    place.remove()
  }
  document.getElementById('root').inert = false
  document.getElementById('root').removeAttribute('aria-hidden')
  first.remove()
  document.querySelector('[data-testid="stMain"]')?.scrollTo({ top: scrollTop })
  if (focused?.isConnected && focused !== findFocus()) focused.focus({ preventScroll: true })
  attendAgain()
}

function findFocus() {
  let focused = document.activeElement
  while (focused?.shadowRoot?.activeElement) focused = focused.shadowRoot.activeElement
  return focused
}

function startStreamlit() {
  for (const node of document.getElementById('relight-streamlit').content.children) append(node)
}

/** Load a script or a style sheet of Streamlit; while the server is gone, try again. */
function append(node) {
  const loading = node.cloneNode()
  loading.onerror = () => {
    loading.remove()
    setTimeout(append, RETRY_MS, node)
  }
  document.head.append(loading)
}

/** Do what was pressed and typed in a component before it was live. */
function replay(element) {
  element.dataset.live = ''
  for (const { type, host, target } of first.held) {
    if (host !== element || !target.isConnected) continue
    if (type === 'click') target.dispatchEvent(new MouseEvent(type, { bubbles: true, cancelable: true, composed: true }))
    else for (const name of ['input', 'change']) target.dispatchEvent(new Event(name, { bubbles: true }))
  }
}

async function begin() {
  document.getElementById('root').inert = true
  document.getElementById('root').ariaHidden = 'true' // what Streamlit draws meanwhile is there twice
  for (const template of first.querySelectorAll('template[shadowrootmode]')) { // a browser that does not know them
    template.parentElement.attachShadow({ mode: 'open' }).append(template.content)
    template.remove()
  }
  const charts = hosts.some(({ data }) => data.plotly)
  const drawn = new Promise((resolve) => {
    document.addEventListener('relight-drawn', resolve, { once: true })
    setTimeout(resolve, charts ? CHARTS_MS : 0)
  })
  for (const host of hosts) {
    import(new URL(host.data.module, location.origin)).then(
      (module) => {
        host.module = module
        if (!first.isConnected) return
        module.show({ data: host.data, parentElement: inner(host.element) })
        replay(host.element)
      },
      () => {}, // the component that Streamlit mounts tries again
    )
  }
  await drawn
  requestAnimationFrame(() => setTimeout(startStreamlit))
}

if (first) begin()
