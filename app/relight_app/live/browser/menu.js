// A small menu at a button: items are {label, hint, disabled, href, run}.

let open = null

/** Show the menu `items`, titled `label`, at `anchor`, inside `parent`. */
export function openMenu(anchor, items, { label, parent }) {
  open?.hidePopover()
  const menu = document.createElement('div')
  menu.className = 'relight-menu'
  menu.popover = 'auto'
  menu.setAttribute('role', 'menu')
  menu.setAttribute('aria-label', label)
  const title = document.createElement('div')
  title.className = 'relight-menu-title'
  title.setAttribute('role', 'presentation')
  title.textContent = label
  menu.append(title)
  const entries = items.map((item) => {
    const entry = document.createElement(item.href ? 'a' : 'button')
    if (item.href) entry.href = item.href
    else entry.type = 'button'
    entry.setAttribute('role', 'menuitem')
    entry.tabIndex = -1
    entry.textContent = item.label
    if (item.hint) {
      const hint = document.createElement('small')
      hint.textContent = item.hint
      entry.append(hint)
    }
    if (item.disabled) entry.setAttribute('aria-disabled', 'true')
    entry.addEventListener('click', (event) => {
      const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey
      if (item.disabled || (item.href && !elsewhere)) event.preventDefault()
      if (item.disabled || (item.href && elsewhere)) return
      menu.hidePopover()
      item.run()
    })
    menu.append(entry)
    return entry
  })
  menu.addEventListener('keydown', (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
    const place = entries.indexOf(document.activeElement)
    const wanted = step ? (place + step + entries.length) % entries.length : { Home: 0, End: entries.length - 1 }[event.key]
    if (wanted === undefined) return
    event.preventDefault()
    entries[wanted].focus()
  })
  menu.addEventListener('toggle', (event) => {
    if (event.newState === 'open') return
    const inside = menu.contains(document.activeElement) || document.activeElement === document.body
    anchor.setAttribute('aria-expanded', 'false')
    menu.remove()
    if (open === menu) open = null
    if (inside && anchor.isConnected) anchor.focus()
  })
  parent.append(menu)
  menu.showPopover()
  open = menu
  anchor.setAttribute('aria-expanded', 'true')
  const at = anchor.getBoundingClientRect()
  const { width, height } = menu.getBoundingClientRect()
  menu.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`
  menu.style.top = `${at.bottom + 4 + height > innerHeight ? Math.max(8, at.top - height - 4) : at.bottom + 4}px`
  entries[0]?.focus()
}
