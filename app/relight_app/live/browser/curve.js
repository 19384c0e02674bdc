// The points of one curve: filled from the history, extended by rows of the stream.

const AT_MOST_NEW = 1500

/** One series of a chart. x (a step, or milliseconds) rises strictly; y is NaN where the line breaks. */
export class Curve {
  constructor(spec) {
    this.spec = spec
    this.clear()
  }

  clear() {
    this.main = { x: [], y: [] }
    this.smoothed = { x: [], y: [] }
    this.ghosts = { x: [], y: [] }
    this.average = null
    this.thinned = false
    this.added = 0
    this.last = new Map()
  }

  /** Replace everything with the history. `smoothing` is the weight of the average that continues it. */
  fill({ main, smoothed, ghosts, average, thinned }, smoothing = 0) {
    this.main = main
    this.smoothed = smoothed
    this.ghosts = ghosts
    this.average = average ?? (smoothing ? { decay: smoothing, sum: 0, weight: 0 } : null)
    this.thinned = thinned
    this.added = 0
    this.last.clear()
  }

  /** Whether enough points were added that the history should be thinned again. */
  get overgrown() {
    return this.added > AT_MOST_NEW
  }

  /** Return the latest value, of a run that is at step `now`: null when there is none, NaN when it is not finite. */
  latest(now) {
    const { x, y } = this.main
    const place = x.length && x[x.length - 1] > now ? lowerBound(x, now + 0.5) : x.length
    return place ? y[place - 1] : null
  }

  /**
   * Add one row of metric file `file`. Returns false when the row belongs before the end (a step trained again): it
   * replaces the points that it supersedes, and the caller should soon read the history again to get the ghost.
   */
  add(file, x, y) {
    const { main } = this
    const end = main.x.length ? main.x[main.x.length - 1] : -Infinity
    const before = this.last.get(file) ?? x
    this.last.set(file, x)
    this.added += 1
    if (x > end) {
      main.x.push(x)
      main.y.push(y)
      this.#smooth(x, y)
      return true
    }
    // This row supersedes everything after the previous row of its attempt.
    const from = lowerBound(main.x, Math.min(before + (before < x ? 1e-9 : 0), x))
    let to = lowerBound(main.x, x)
    if (main.x[to] === x) to += 1
    const same = to - from === 1 && main.x[from] === x && Object.is(main.y[from], y)
    if (same) return true // sent twice: the history already had it
    main.x.splice(from, to - from, x)
    main.y.splice(from, to - from, y)
    return false
  }

  #smooth(x, y) {
    const { average } = this
    if (!average) return
    if (Number.isFinite(y)) {
      average.sum = average.sum * average.decay + y
      average.weight = average.weight * average.decay + 1
    }
    this.smoothed.x.push(x)
    this.smoothed.y.push(Number.isFinite(y) ? average.sum / average.weight : NaN)
  }
}

/** Return how many of the sorted numbers are less than `value`. */
export function lowerBound(sorted, value) {
  let low = 0
  let high = sorted.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (sorted[middle] < value) low = middle + 1
    else high = middle
  }
  return low
}
