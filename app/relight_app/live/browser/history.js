// Reads the history of a chart's curves. relight_app/server/history_route.py describes the binary body.

/** A failed read. `gone` means that the run does not exist. */
export class HistoryError extends Error {
  constructor(status) {
    super(`history: ${status}`)
    this.gone = status === 404
  }
}

/** Read metrics of one run. Returns {positions, series: {name: the argument of Curve.fill}}. */
export async function readHistory(run, { names, smooth, axis, points, window: range, signal }) {
  const query = new URLSearchParams({ run, x: axis, points })
  names.forEach((name) => query.append('name', name))
  smooth.forEach((name) => query.append('smooth', name))
  if (range) {
    query.set('from', range[0])
    query.set('to', range[1])
  }
  const response = await fetch(`/api/history?${query}`, { credentials: 'same-origin', signal })
  if (!response.ok) throw new HistoryError(response.status)
  return decode(await response.arrayBuffer())
}

function decode(body) {
  const length = new DataView(body).getUint32(0, true)
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, length)))
  let offset = 4 + length
  const take = (count) => {
    const array = Array.from(new Float64Array(body, offset, count))
    offset += 8 * count
    return array
  }
  const takeLine = (count) => ({ x: take(count), y: take(count) })
  const series = {}
  for (const part of header.series) {
    const main = takeLine(part.points)
    const smoothed = takeLine(part.smoothed)
    const ghosts = takeLine(part.ghosts)
    const average = part.decay === null ? null : { decay: part.decay, sum: part.sum, weight: part.weight }
    series[part.name] = { main, smoothed, ghosts, average, thinned: part.thinned }
  }
  return { positions: header.positions, series }
}
