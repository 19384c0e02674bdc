// Reads the history of curves. relight_app/server/history_route.py describes the binary body.

import { siteUrl } from './site.js'

const GATHER_MS = 10 // charts that come into sight together are read together
const MOST_NAMES = 48

/** A failed read. `gone` means that the run does not exist. */
export class HistoryError extends Error {
  constructor(status) {
    super(`history: ${status}`)
    this.gone = status === 404
  }
}

const gathering = new Map() // by query: the reads that wait to be sent together

/**
 * Read metrics of one run. `smooth` are the names to smooth with the weight `smoothing`, `log` thins for a logarithmic
 * axis. Returns {positions, series: {name: the argument of Curve.fill}}. Reads that differ only in their names become
 * one request, whose rows the server reads from the disk once.
 */
export async function readHistory(run, options) {
  const { names } = options
  const parts = []
  for (let i = 0; i < names.length; i += MOST_NAMES) parts.push(read(run, { ...options, names: names.slice(i, i + MOST_NAMES) }))
  const histories = await Promise.all(parts)
  // The first positions: rows that a later part has already are recognized when they come again.
  return { positions: histories[0].positions, series: Object.assign({}, ...histories.map(({ series }) => series)) }
}

function read(run, { names, smooth, smoothing, axis, log, points, window: range, signal }) {
  const query = new URLSearchParams({ run, x: axis, points })
  if (smoothing) query.set('smoothing', smoothing)
  if (log) query.set('log', 1)
  if (range) {
    query.set('from', range[0])
    query.set('to', range[1])
  }
  const key = String(query)
  return new Promise((resolve, reject) => {
    const wanted = { names, smooth: smoothing ? smooth.filter((name) => names.includes(name)) : [], signal, resolve, reject }
    if (gathering.has(key)) gathering.get(key).push(wanted)
    else {
      gathering.set(key, [wanted])
      setTimeout(() => send(key), GATHER_MS)
    }
  })
}

function send(key) {
  const reads = gathering.get(key).filter(({ signal }) => !signal.aborted)
  gathering.delete(key)
  for (let group = []; reads.length; group = []) {
    let count = 0
    do {
      count += reads[0].names.length
      group.push(reads.shift())
    } while (reads.length && count + reads[0].names.length <= MOST_NAMES)
    ask(key, group)
  }
}

async function ask(key, reads) {
  const names = new Set(reads.flatMap((read) => read.names))
  const smooth = new Set(reads.flatMap((read) => read.smooth))
  const query = new URLSearchParams(key)
  names.forEach((name) => query.append('name', name))
  smooth.forEach((name) => query.append('smooth', name))
  const controller = new AbortController()
  const giveUp = () => reads.every(({ signal }) => signal.aborted) && controller.abort()
  reads.forEach(({ signal }) => signal.addEventListener('abort', giveUp))
  try {
    const response = await fetch(siteUrl(`/api/history?${query}`), { signal: controller.signal })
    if (!response.ok) throw new HistoryError(response.status)
    const body = await response.arrayBuffer()
    reads.forEach((read) => read.resolve(decode(body, new Set(read.names))))
  } catch (error) {
    reads.forEach((read) => read.reject(error))
  }
}

/** Decode the curves with these names. Each reader gets arrays and positions of its own, which it extends. */
function decode(body, names) {
  const length = new DataView(body).getUint32(0, true)
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, length)))
  let offset = 4 + length
  const take = (count) => {
    offset += 8 * count
    return Array.from(new Float64Array(body, offset - 8 * count, count))
  }
  const takeLine = (count) => ({ x: take(count), y: take(count) })
  const series = {}
  for (const part of header.series) {
    if (!names.has(part.name)) {
      offset += 16 * (part.points + part.smoothed + part.ghosts)
      continue
    }
    const main = takeLine(part.points)
    const smoothed = takeLine(part.smoothed)
    const ghosts = takeLine(part.ghosts)
    const average = part.decay === null ? null : { decay: part.decay, sum: part.sum, weight: part.weight }
    series[part.name] = { main, smoothed, ghosts, average, thinned: part.thinned }
  }
  return { positions: header.positions, series }
}
