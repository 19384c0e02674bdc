// The live areas of a page. Python builds the markup of each part; this module asks for it when the page opens, when
// the query changes, and when the event stream says that one of the part's topics has changed, and patches it in place.

import { areOn, attend } from './attention.js'
import { showConnection } from './connection.js'
import { listen } from './gestures.js'
import { fillIn } from './live_fields.js'
import { readQuery } from './navigate.js'
import { patchChildren } from './patch.js'
import { showPresses } from './presses.js'
import { siteUrl } from './site.js'
import { subscribe } from './stream.js'

const EVERY_MS = 250
const RETRY_MS = 1000
const HIDDEN_MS = 10_000 // browsers wake hidden tabs once a minute at the latest

const boards = new Map() // by the element that they fill
const filled = new WeakMap()

/** Show the parts of this component, or follow the page to another run. */
export function show({ data, parentElement }) {
  const root = parentElement.querySelector('.view')
  filled.set(parentElement, root)
  if (!boards.has(root)) boards.set(root, new Board(root))
  boards.get(root).update(data)
}

/** Remove the parts of a component. */
export function remove({ parentElement }) {
  const root = filled.get(parentElement)
  boards.get(root)?.remove()
  boards.delete(root)
}

/** Ask for every part of the page again; resolves when all have arrived. */
export function refresh() {
  return Promise.all([...boards.values()].flatMap((board) => board.parts.map((part) => part.ask())))
}

class Board {
  constructor(root) {
    this.root = root
    this.parts = []
    this.state = null
    this.topics = new Map()
    this.seen = ''
    this.unsubscribe = () => {}
    this.unlisten = listen(root, {
      refresh,
      shows: (text) => [...boards.values()].some((board) => board.root.textContent.includes(text)),
      findRoot: () => [...boards.values()].map((board) => board.root).find((one) => one.isConnected),
    })
    this.visible = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const part = this.parts.find((one) => one.element === target)
        if (part) part.setVisible(isIntersecting)
      }
    }, { rootMargin: '200px' })
    this.timer = setInterval(() => tick(root), 1000)
    this.glances = setInterval(() => document.hidden && this.glance(), HIDDEN_MS)
  }

  update(data) {
    const seen = JSON.stringify(data)
    if (seen === this.seen) return
    const names = JSON.stringify([data.parts, data.run])
    this.seen = seen
    if (names !== this.names) {
      this.names = names
      this.data = data
      this.state = null
      this.topics.clear()
      this.visible.disconnect()
      const sent = (name) => this.root.querySelector(`:scope > [data-part="${name}"][data-etag]`)
      this.parts = data.parts.map((one) => new Part(this, one, sent(one.name)))
      const elements = this.parts.map((part) => part.element)
      for (const child of [...this.root.children]) if (!elements.includes(child)) child.remove()
      elements.forEach((element, place) => this.root.children[place] === element || this.root.insertBefore(element, this.root.children[place] ?? null))
      for (const part of this.parts) this.visible.observe(part.element)
      this.unsubscribe()
      this.unsubscribe = subscribe({
        watch: data.run ? { [data.run]: [] } : {},
        listing: data.parts.some((one) => one.topics.includes('runs')),
        machine: data.parts.some((one) => one.topics.includes('machine')),
        jobs: true,
        onState: (state) => this.take(state),
        onChanged: ({ run, topics }) => this.change(run, topics),
        onMachine: ({ time }) => this.change('machine', { machine: String(time) }),
        onConnection: (connection) => this.setConnection(connection),
      })
    }
    for (const part of this.parts) if (!part.takeSent()) part.ask()
  }

  take(state) {
    this.state = state
    fillIn(this.root, state)
  }

  change(run, topics) {
    for (const [name, token] of Object.entries(topics)) this.topics.set(name, token)
    for (const part of this.parts) part.consider()
  }

  setConnection(connection) {
    if (boards.values().next().value === this) showConnection(this.root, connection)
    const was = this.root.dataset.connection
    this.root.dataset.connection = connection
    if (connection === 'open' && was === 'lost') for (const part of this.parts) part.ask()
  }

  /** A hidden tab has no event stream: ask for what its title, its icon and its notifications say. */
  glance() {
    for (const part of this.parts) if (part.attended) part.ask()
  }

  remove() {
    this.unsubscribe()
    this.unlisten()
    this.visible.disconnect()
    clearInterval(this.timer)
    clearInterval(this.glances)
    for (const part of this.parts) part.remove()
    this.parts = []
  }
}

class Part {
  /** `sent` is the element of a part that came with the page. */
  constructor(board, { name, topics }, sent) {
    this.board = board
    this.name = name
    this.topics = topics
    this.element = sent ?? document.createElement('div')
    this.element.className = 'part'
    this.element.dataset.part = name
    this.etag = ''
    this.address = ''
    this.visible = false
    this.removed = false
    this.asking = null
    this.again = false
    this.askedAt = 0
    this.askedTopics = null
    this.attended = false // whether it says how things stand
    this.timer = 0
    this.retry = 0
  }

  setVisible(visible) {
    this.visible = visible
    if (visible) this.consider()
  }

  /** Ask again if a topic has changed since the last answer, at most four times a second. */
  consider() {
    if (this.removed || this.timer || this.asking || !this.isStale()) return
    const wait = Math.max(0, this.askedAt + EVERY_MS - performance.now())
    this.timer = setTimeout(() => {
      this.timer = 0
      if (this.isStale()) this.ask()
    }, wait)
  }

  /** Whether a topic has changed since the last answer. A log that is out of sight may wait: it changes all the time. */
  isStale() {
    const changed = this.topics.filter((topic) => this.board.topics.get(topic) !== this.askedTopics?.get(topic))
    return changed.length > 0 && (this.visible || changed.some((topic) => topic !== 'log'))
  }

  /** Ask for the markup now; while a question is on its way, ask once more after it. */
  ask() {
    if (this.asking) {
      this.again = true
      return this.asking
    }
    this.asking = this.fetch().finally(() => {
      this.asking = null
      if (this.again && !this.removed) {
        this.again = false
        return this.ask()
      }
      this.consider()
      return undefined
    })
    return this.asking
  }

  async fetch() {
    this.askedAt = performance.now()
    const topics = new Map(this.board.topics)
    const address = this.findAddress()
    if (address !== this.address) this.etag = ''
    let response
    try {
      response = await fetch(address, { headers: this.etag ? { 'If-None-Match': this.etag } : {}, cache: 'no-store' })
      const failed = response.headers.has('Relight-Failed')
      // A form that cannot be built just now stays, with what was typed into it.
      const stays = failed && !this.topics.length && this.etag
      if (response.status !== 200 && response.status !== 304) throw new Error(`status ${response.status}`)
      if (response.status === 200 && !stays) this.show(await response.text(), response.headers.get('ETag'), address)
      this.askedTopics = topics
      if (failed) this.askSoon()
    } catch { // the server is gone or busy: what is on the screen stays, and the page says so
      this.askSoon()
    }
  }

  /** Ask again in a while: once, however many answers have failed until then. */
  askSoon() {
    if (this.removed || this.retry) return
    this.retry = setTimeout(() => {
      this.retry = 0
      this.ask()
    }, RETRY_MS)
  }

  findAddress() {
    const query = readQuery()
    if (this.board.data.run) query.set('id', this.board.data.run)
    return siteUrl(`/parts/${this.name}?${query}`)
  }

  /** Take what came with the page for an answer; returns whether there was something. */
  takeSent() {
    const { etag } = this.element.dataset
    if (!etag) return false
    delete this.element.dataset.etag
    this.etag = etag
    this.address = this.findAddress()
    this.finish(new Set())
    return true
  }

  show(html, etag, address) {
    if (this.removed) return
    const held = new Set() // logs that the person has scrolled up
    for (const node of this.element.querySelectorAll('[data-follow]')) {
      if (node.scrollHeight - node.scrollTop - node.clientHeight >= 24) held.add(node)
    }
    const wanted = document.createElement('template')
    wanted.innerHTML = html
    patchChildren(this.element, wanted.content)
    this.etag = etag ?? ''
    this.address = address
    this.finish(held)
  }

  /** Make new markup live. `held` are the logs that stay where they are. */
  finish(held) {
    for (const node of this.element.querySelectorAll('[data-follow]')) {
      if (!held.has(node)) node.scrollTop = node.scrollHeight
    }
    const titled = this.element.querySelector('[data-title]')
    if (titled) attend(titled.dataset, `${this.name} ${this.board.data.run}`)
    this.attended ||= Boolean(titled)
    for (const node of this.element.querySelectorAll('[data-notify]')) node.setAttribute('aria-pressed', String(areOn()))
    if (this.board.state) fillIn(this.element, this.board.state)
    showPresses(this.board.root)
    tick(this.element)
    this.element.dispatchEvent(new CustomEvent('relight-shown', { bubbles: true, composed: true }))
  }

  remove() {
    this.removed = true
    clearTimeout(this.timer)
    clearTimeout(this.retry)
  }
}

// The same words as relight.wording.describe_age.
function ageInWords(seconds) {
  for (const [size, unit] of [[86400, 'd'], [3600, 'h'], [60, 'min']]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`
  }
  return seconds >= 5 ? `${Math.floor(seconds)} s ago` : 'just now'
}

const moments = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'long' })
const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' })
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' })

/** Write the times in the browser's zone: an age that counts up, or with `data-moment` a moment. */
function tick(root) {
  const now = Date.now()
  for (const node of root.querySelectorAll('time[data-s]')) {
    const moment = new Date(1000 * Number(node.dataset.s))
    let words = ageInWords((now - moment) / 1000)
    if ('moment' in node.dataset) words = (moment.toDateString() === new Date(now).toDateString() ? clock : day).format(moment)
    if (node.textContent !== words) node.textContent = words
    if (!node.title) node.title = moments.format(moment)
  }
}
