// The list of keys, above the page.

const KEYS = [
  ['/', 'Search'],
  ['j, k', 'Next and previous run'],
  ['Enter', 'Open the run'],
  ['x', 'Select the run'],
  ['r', 'Resume'],
  ['s', 'Stop'],
  ['c', 'Compare the selected runs'],
  ['?', 'Show these keys'],
]

/** Show the keys until the person closes them. */
export function show(root) {
  const dialog = document.createElement('dialog')
  dialog.className = 'dialog'
  dialog.setAttribute('aria-label', 'Keys')
  const rows = KEYS.map(([key, words]) => `<div><dt><kbd>${key}</kbd></dt><dd>${words}</dd></div>`).join('')
  dialog.innerHTML = `<form method="dialog" class="stack"><h2>Keys</h2><dl class="facts">${rows}</dl><div class="row end"><button class="button">Close</button></div></form>`
  dialog.onclose = () => dialog.remove()
  root.append(dialog)
  dialog.showModal()
}
