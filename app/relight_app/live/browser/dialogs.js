// Questions and problems above the page.

const make = (name, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(name), properties)
  node.append(...children)
  return node
}

/** Ask before something is done; resolves to whether the person agreed. */
export function ask(root, { confirm, confirmTitle = 'Are you sure?', confirmYes = 'Continue', confirmNo = 'Cancel' }) {
  return new Promise((resolve) => {
    const no = make('button', { type: 'button', className: 'button', textContent: confirmNo })
    const yes = make('button', { type: 'button', className: 'button solid', textContent: confirmYes })
    const title = make('h2', { textContent: confirmTitle, id: 'dialog-title' })
    const dialog = make('dialog', { className: 'dialog' }, title, make('p', { textContent: confirm }), make('div', { className: 'row end' }, no, yes))
    dialog.setAttribute('aria-labelledby', 'dialog-title')
    dialog.onclose = () => {
      dialog.remove()
      resolve(dialog.returnValue === 'yes')
    }
    no.onclick = () => dialog.close('no')
    yes.onclick = () => dialog.close('yes')
    dialog.onclick = (event) => {
      if (event.target === dialog) dialog.close('no')
    }
    root.append(dialog)
    dialog.showModal()
    no.focus()
  })
}

/** Show a problem until the person closes it. */
export function tell(root, { problem, traceback }) {
  let box = root.querySelector('.toasts')
  if (!box) root.append((box = make('div', { className: 'toasts' })))
  const close = make('button', { type: 'button', className: 'icon-button', textContent: '✕' })
  close.setAttribute('aria-label', 'Close')
  const toast = make('div', { className: 'notice bad toast' }, make('div', { className: 'row nowrap' }, make('div', { textContent: problem, className: 'grow' }), close))
  toast.setAttribute('role', 'alert')
  if (traceback) {
    toast.append(make('details', {}, make('summary', { textContent: 'Traceback' }), make('pre', { className: 'text', textContent: traceback })))
  }
  close.onclick = () => toast.remove()
  box.append(toast)
}
