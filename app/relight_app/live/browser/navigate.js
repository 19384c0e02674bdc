// The address of the page: going to another page, and changing the query of this one.

/** Go to a page of this site without a reload: Streamlit follows the address as it does for the Back button. */
export function open(href) {
  if (document.getElementById('relight-first')) return location.assign(href) // Streamlit does not follow yet
  history.pushState(null, '', href)
  window.dispatchEvent(new PopStateEvent('popstate'))
}

/** Return the query of the address. */
export function readQuery() {
  return new URLSearchParams(location.search)
}

/** Change values of the query; null and '' remove one. Returns whether anything changed. */
export function changeQuery(changes) {
  const query = readQuery()
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === '') query.delete(name)
    else query.set(name, value)
  }
  const text = query.toString()
  if (text === readQuery().toString()) return false
  history.replaceState(history.state, '', location.pathname + (text && `?${text}`) + location.hash)
  return true
}
