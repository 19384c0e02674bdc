// How the charts are drawn: remembered by the browser, and in the address, so that a link shows the same view.

const STORE = 'relight-charts'
const ADDRESS_MS = 200 // browsers limit how often a page may change its address

export const X_MODES = { step: 'Step', epoch: 'Epoch', relative: 'Time since start', wall: 'Time of day' }

const flag = { read: (text) => text === '1', write: (on) => (on ? '1' : '0'), valid: (value) => typeof value === 'boolean' }
const FIELDS = {
  smoothing: {
    start: 0.8,
    address: 'smoothing',
    read: Number,
    write: (value) => String(value),
    valid: (value) => typeof value === 'number' && value >= 0 && value < 1,
  },
  x: { start: 'step', address: 'xaxis', read: String, write: String, valid: (value) => Object.hasOwn(X_MODES, value) },
  logX: { start: false, address: 'logx', ...flag },
  logY: { start: false, address: 'logy', ...flag },
  outliers: { start: false, address: 'outliers', ...flag },
  search: { start: '', address: 'charts', read: String, write: String, valid: (value) => typeof value === 'string', forget: true },
  pinned: {
    start: [],
    address: 'pin',
    many: true,
    valid: (value) => Array.isArray(value) && value.every((one) => typeof one === 'string'),
  },
  folded: { start: {}, valid: (value) => value !== null && typeof value === 'object' && !Array.isArray(value) },
}

/** The settings of one page. `onChange` is called after each change. */
export class Settings {
  constructor(onChange) {
    this.onChange = onChange
    this.timer = 0
    this.values = Object.fromEntries(Object.entries(FIELDS).map(([name, { start }]) => [name, start]))
    this.#take(recall())
    this.#take(readAddress())
  }

  /** Whether anything differs from how charts are drawn at first. */
  get changed() {
    return ['smoothing', 'x', 'logX', 'logY', 'outliers'].some((name) => this.values[name] !== FIELDS[name].start)
  }

  set(changes) {
    this.#take(changes)
    remember(this.values)
    clearTimeout(this.timer)
    this.timer = setTimeout(() => writeAddress(this.values), ADDRESS_MS)
    this.onChange(changes)
  }

  reset() {
    this.set(Object.fromEntries(['smoothing', 'x', 'logX', 'logY', 'outliers'].map((name) => [name, FIELDS[name].start])))
  }

  stop() {
    clearTimeout(this.timer)
  }

  #take(values) {
    for (const [name, value] of Object.entries(values)) if (FIELDS[name]?.valid(value)) this.values[name] = value
  }
}

function recall() {
  try {
    return JSON.parse(localStorage.getItem(STORE)) ?? {}
  } catch {
    return {} // blocked, or written by something else
  }
}

function remember(values) {
  try {
    const kept = Object.entries(values).filter(([name]) => !FIELDS[name].forget)
    localStorage.setItem(STORE, JSON.stringify(Object.fromEntries(kept)))
  } catch {
    // Blocked or full: the address still has them.
  }
}

function readAddress() {
  const query = new URLSearchParams(location.search)
  const found = {}
  for (const [name, { address, read, many }] of Object.entries(FIELDS)) {
    if (!address || !query.has(address)) continue
    found[name] = many ? query.getAll(address) : read(query.get(address))
  }
  return found
}

/** Write what differs from the start into the address. Other parts of it, and Streamlit's state, stay. */
function writeAddress(values) {
  const url = new URL(location.href)
  for (const [name, { address, start, write, many }] of Object.entries(FIELDS)) {
    if (!address) continue
    url.searchParams.delete(address)
    if (many) values[name].forEach((one) => url.searchParams.append(address, one))
    else if (values[name] !== start) url.searchParams.set(address, write(values[name]))
  }
  if (url.href !== location.href) history.replaceState(history.state, '', url)
}
