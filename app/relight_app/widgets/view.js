// Shows HTML that Python built, and patches it in place: scroll, focus, open menus and selection survive updates.
const views = new WeakMap()

const keyOf = (node) => (node.nodeType === 1 ? node.dataset.key : undefined)
const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b)

function patch(node, wanted) {
  if (node.nodeType !== 1) {
    if (node.data !== wanted.data) node.data = wanted.data
    return
  }
  const kept = node.nodeName === "DETAILS" ? "open" : null // the person opens and closes it, not the server
  for (const { name } of [...node.attributes]) {
    if (!wanted.hasAttribute(name) && name !== kept && name !== "style") node.removeAttribute(name)
  }
  for (const { name, value } of wanted.attributes) {
    if (name !== kept && node.getAttribute(name) !== value) node.setAttribute(name, value)
  }
  if (node.nodeName !== "TIME") patchChildren(node, wanted) // `tick` owns its content
}

function patchChildren(node, wanted) {
  const keyed = new Map()
  for (const child of node.childNodes) if (keyOf(child) !== undefined) keyed.set(keyOf(child), child)
  let current = node.firstChild
  for (const next of [...wanted.childNodes]) {
    const match = keyOf(next) === undefined ? (current && alike(current, next) ? current : null) : keyed.get(keyOf(next))
    if (match && alike(match, next)) {
      if (match === current) current = current.nextSibling
      else node.insertBefore(match, current)
      patch(match, next)
    } else {
      node.insertBefore(next, current)
    }
  }
  while (current) {
    const gone = current
    current = current.nextSibling
    gone.remove()
  }
}

// The same words as relight.wording.describe_age.
function ageInWords(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`
  }
  return seconds >= 5 ? `${Math.floor(seconds)} s ago` : "just now"
}

function tick(view) {
  const now = Date.now() / 1000
  for (const node of view.root.querySelectorAll("time[data-s]")) {
    const words = ageInWords(now - Number(node.dataset.s))
    if (node.textContent !== words) node.textContent = words
  }
}

function placeMenu(button, menu) {
  const box = button.getBoundingClientRect()
  const width = menu.offsetWidth
  const below = box.bottom + 4 + menu.offsetHeight <= window.innerHeight
  menu.style.top = `${below ? box.bottom + 4 : Math.max(8, box.top - 4 - menu.offsetHeight)}px`
  menu.style.left = `${Math.min(Math.max(8, box.right - width), window.innerWidth - width - 8)}px`
}

function toggleMenu(view, button) {
  const menu = view.root.querySelector(`#${CSS.escape(button.dataset.menu)}`)
  if (!menu) return
  if (menu.matches(":popover-open")) {
    menu.hidePopover()
    return
  }
  menu.showPopover()
  placeMenu(button, menu)
  button.setAttribute("aria-expanded", "true")
  menu.ontoggle = ({ newState }) => button.setAttribute("aria-expanded", String(newState === "open"))
  menu.querySelector("[role=menuitem]:not([aria-disabled=true])")?.focus()
}

function moveInMenu(event) {
  const menu = event.target.closest("[role=menu]")
  if (!menu || (event.key !== "ArrowDown" && event.key !== "ArrowUp")) return
  event.preventDefault()
  const items = [...menu.querySelectorAll("[role=menuitem]")]
  const at = items.indexOf(event.target)
  items[(at + (event.key === "ArrowDown" ? 1 : items.length - 1)) % items.length].focus()
}

// The space bar also presses links with the role "button".
function pressWithSpace(event) {
  const link = event.target.closest("a[role=button]")
  if (!link || event.key !== " ") return
  event.preventDefault()
  link.click()
}

async function copyText(view, button) {
  const source = view.root.querySelector(`#${CSS.escape(button.dataset.copy)}`)
  try {
    await navigator.clipboard.writeText(source.textContent)
  } catch { // no clipboard without a secure context: select the text, so that Ctrl+C copies it
    getSelection().selectAllChildren(source)
    return
  }
  const label = button.textContent
  button.textContent = "Copied"
  setTimeout(() => { button.textContent = label }, 1500)
}

function onClick(view, event) {
  const target = event.target.closest("[data-action], [data-page], [data-menu], [data-copy]")
  if (!target || target.getAttribute("aria-disabled") === "true") return
  if (target.dataset.menu !== undefined) return toggleMenu(view, target)
  if (target.dataset.copy !== undefined) return copyText(view, target)
  if (target.dataset.page !== undefined) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return // opens a new tab: let the link itself work
    event.preventDefault()
    view.send("open", { page: target.dataset.page, query: JSON.parse(target.dataset.query ?? "{}") })
    return
  }
  target.closest("[popover]")?.hidePopover()
  view.send("action", { name: target.dataset.action, value: JSON.parse(target.dataset.value ?? "null") })
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".view")
  let view = views.get(parentElement)
  if (!view) {
    view = { root, html: null }
    views.set(parentElement, view)
    root.addEventListener("click", (event) => onClick(view, event))
    root.addEventListener("keydown", moveInMenu)
    root.addEventListener("keydown", pressWithSpace)
    view.timer = setInterval(() => tick(view), 1000)
  }
  view.send = setTriggerValue
  if (view.html !== data.html) {
    const held = new Set() // logs that the person has scrolled up
    for (const node of root.querySelectorAll("[data-follow]")) {
      if (node.scrollHeight - node.scrollTop - node.clientHeight >= 24) held.add(node)
    }
    const wanted = document.createElement("template")
    wanted.innerHTML = data.html
    patchChildren(root, wanted.content)
    view.html = data.html
    for (const node of root.querySelectorAll("[data-follow]")) {
      if (!held.has(node)) node.scrollTop = node.scrollHeight
    }
  }
  tick(view)
  return () => {
    // Streamlit (1.67) also calls this when new data arrived before the view was first drawn. Then it must stay.
    if (parentElement.isConnected) return
    clearInterval(view.timer)
    views.delete(parentElement)
  }
}
