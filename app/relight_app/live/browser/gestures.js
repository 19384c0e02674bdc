// What a person can do with the markup of a part:
//   <a href="/run?id=…">                     goes to that page without a reload
//   data-act="stop" data-payload='{"run":…}' does an action (see presses.js); a <form data-act> sends its fields with it.
//                                            A button of the form with data-submit="drill" does that action instead, with
//                                            the fields that it names: data-fields="config arguments"
//   data-set='{"tab":"config"}'              changes the query of the page; <input data-query="q"> does while typing
//   data-select="RUN"                        selects a run (see selection.js)
//   data-menu="id"                           opens the popover with that id
//   data-copy="id"                           copies the text of that id
//   data-log, data-log-search                the tools above a log (see log.js)
//   data-notify                              turns notifications on or off

import { toggleNotifications } from './attention.js'
import { search, showLogs, useTool } from './log.js'
import { changeQuery, open } from './navigate.js'
import { press, pressForEach } from './presses.js'
import { readFields, showFields } from './fields.js'
import { onPageKey } from './keyboard.js'
import { Selection } from './selection.js'

const TYPED_MS = 150

/** Handle everything below `root`; `page` is what `press` takes. Returns a function that ends it. */
export function listen(root, page) {
  page = { ...page, selection: new Selection(root) }
  const handlers = { click: onClick, keydown: onKey, input: onInput, change: onChange, submit: onSubmit }
  const bound = Object.entries(handlers).map(([name, handle]) => [name, (event) => handle(event, root, page)])
  for (const [name, handle] of bound) root.addEventListener(name, handle)
  const shown = () => {
    showFields(root)
    page.selection.show()
    showLogs(root)
  }
  root.addEventListener('relight-shown', shown)
  const asked = (event) => askElsewhere(event, root, page)
  document.addEventListener('relight-action', asked)
  const typed = (event) => onPageKey(event, root)
  document.addEventListener('keydown', typed)
  return () => {
    for (const [name, handle] of bound) root.removeEventListener(name, handle)
    document.removeEventListener('relight-action', asked)
    document.removeEventListener('keydown', typed)
  }
}

function onClick(event, root, page) {
  const target = event.target.closest('[data-act], [data-each], [data-with-selected], [data-select], [data-select-all], [data-set], [data-menu], [data-copy], [data-notify], [data-log], a[href]')
  if (!target) return
  if (target.dataset.select !== undefined) return page.selection.click(target, event.shiftKey)
  if (target.dataset.selectAll !== undefined) return page.selection.all(target.checked)
  if (target.nodeName === 'FORM') {
    if (event.detail > 1 && event.target.closest('[type=submit]')) event.preventDefault()
    return
  }
  if (target.getAttribute('aria-disabled') === 'true') return event.preventDefault()
  const { dataset } = target
  if (dataset.menu !== undefined) return toggleMenu(root, target)
  if (dataset.copy !== undefined) return copyText(root, target)
  if (dataset.log !== undefined) return useTool(target)
  if (dataset.notify !== undefined) return toggleNotifications().then((on) => target.setAttribute('aria-pressed', String(on)))
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return // a new tab: let the link itself work
  if (dataset.set !== undefined) {
    event.preventDefault()
    set(JSON.parse(dataset.set), page)
  } else if (dataset.act !== undefined) {
    event.preventDefault()
    if (event.detail > 1) return // the second click of a double-click
    target.closest('[popover]')?.hidePopover()
    press(target, root, page)
  } else if (dataset.each !== undefined) {
    if (event.detail <= 1) pressForEach(target, page.selection.list(), root, page)
  } else if (dataset.withSelected !== undefined) {
    open(dataset.withSelected + page.selection.list().map(encodeURIComponent).join(','))
  } else if (!target.target && !target.hasAttribute('download') && target.origin === location.origin) {
    event.preventDefault()
    open(target.href)
  }
}

function set(changes, page) {
  if (changeQuery(changes)) page.refresh()
}

let typed = 0

function onInput(event, root, page) {
  const { target } = event
  const { query } = target.dataset
  if (query !== undefined) {
    clearTimeout(typed)
    typed = setTimeout(() => set({ [query]: target.value }, page), TYPED_MS)
  }
  if (target.dataset.logSearch !== undefined) search(target)
  if (target.form?.dataset.act) showFields(root)
}

function onChange(event, root, page) {
  const { target } = event
  if (target.nodeName === 'SELECT' && target.dataset.query !== undefined) set({ [target.dataset.query]: target.value }, page)
  if (target.form?.dataset.act) showFields(root)
}

async function onSubmit(event, root, page) {
  const form = event.target
  if (!form.dataset.act) return
  event.preventDefault()
  const { submit, fields: only } = event.submitter?.dataset ?? {}
  let fields = readFields(form)
  if (only) fields = Object.fromEntries(Object.entries(fields).filter(([name]) => only.split(' ').includes(name)))
  const answer = await press(form, root, page, fields, submit)
  if (answer && !answer.problem && form.dataset.set) set(JSON.parse(form.dataset.set.replaceAll('{file}', JSON.stringify(fields.file ?? '').slice(1, -1))), page)
}

/** Menus of the charts ask for actions with an event: `{detail: {name, payload}}`. The first board acts. */
function askElsewhere(event, root, page) {
  if (event.detail.taken) return
  event.detail.taken = true
  const button = document.createElement('button')
  button.dataset.act = event.detail.name
  button.dataset.payload = JSON.stringify(event.detail.payload)
  press(button, root, page)
}

function onKey(event) {
  const link = event.target.closest('a[role=button]')
  if (link && event.key === ' ') { // the space bar also presses links with the role "button"
    event.preventDefault()
    link.click()
    return
  }
  if (event.target.dataset.logSearch !== undefined && event.key === 'Enter') return search(event.target, event.shiftKey ? 1 : -1)
  const group = event.target.closest('[role=tablist], [role=radiogroup]')
  if (group && ['ArrowLeft', 'ArrowRight'].includes(event.key)) return moveIn(group, event, '[role=tab], [role=radio]', event.key === 'ArrowRight')
  const menu = event.target.closest('[role=menu]')
  if (menu && ['ArrowUp', 'ArrowDown'].includes(event.key)) moveIn(menu, event, '[role^=menuitem]', event.key === 'ArrowDown')
}

function moveIn(group, event, items, forward) {
  event.preventDefault()
  const all = [...group.querySelectorAll(items)]
  const next = all[(all.indexOf(event.target) + (forward ? 1 : all.length - 1)) % all.length]
  next.focus()
  if (next.matches('[role=tab], [role=radio]')) next.click()
}

function toggleMenu(root, button) {
  const menu = root.querySelector(`#${CSS.escape(button.dataset.menu)}`)
  if (!menu) return
  if (menu.matches(':popover-open')) {
    menu.hidePopover()
    return
  }
  menu.showPopover()
  placeMenu(button, menu)
  button.setAttribute('aria-expanded', 'true')
  menu.ontoggle = ({ newState }) => button.setAttribute('aria-expanded', String(newState === 'open'))
  menu.querySelector('[role^=menuitem]:not([aria-disabled=true])')?.focus()
}

function placeMenu(button, menu) {
  const box = button.getBoundingClientRect()
  const below = box.bottom + 4 + menu.offsetHeight <= window.innerHeight
  menu.style.top = `${below ? box.bottom + 4 : Math.max(8, box.top - 4 - menu.offsetHeight)}px`
  menu.style.left = `${Math.min(Math.max(8, box.right - menu.offsetWidth), window.innerWidth - menu.offsetWidth - 8)}px`
}

async function copyText(root, button) {
  const source = root.querySelector(`#${CSS.escape(button.dataset.copy)}`)
  try {
    await navigator.clipboard.writeText(source.textContent)
  } catch { // no clipboard without a secure context: select the text, so that Ctrl+C copies it
    getSelection().selectAllChildren(source)
    return
  }
  const label = button.textContent
  button.textContent = 'Copied'
  setTimeout(() => { button.textContent = label }, 1500)
}
