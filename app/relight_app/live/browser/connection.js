// Says when the dashboard's server cannot be reached, and how old what is on the screen is.

const SHOWN_AFTER_MS = 1500 // a restart or a reload is over before anybody needs to know

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' })
let lostAt = 0
let timer = 0

/** Follow the connection: 'connecting', 'open' or 'lost'. The words go into `root`. */
export function showConnection(root, connection) {
  if (connection === 'lost') {
    lostAt ||= Date.now()
    timer ||= setInterval(() => draw(root), 500)
  } else if (connection === 'open') {
    lostAt = 0
    clearInterval(timer)
    timer = 0
    root.getRootNode().querySelectorAll('.connection').forEach((node) => node.remove())
  }
}

function draw(root) {
  const passed = Date.now() - lostAt
  if (passed < SHOWN_AFTER_MS) return
  let bar = root.querySelector('.connection')
  if (!bar) {
    bar = document.createElement('div')
    bar.className = 'connection'
    bar.setAttribute('role', 'alert')
    root.prepend(bar)
  }
  bar.textContent = `No connection since ${words(passed / 1000)}; what you see is from ${clock.format(lostAt)}. Your trainings continue.`
}

function words(seconds) {
  return seconds < 60 ? `${Math.floor(seconds)} s` : `${Math.floor(seconds / 60)} min`
}
