// Reads a comparison of runs. relight_app/server/compare_route.py describes the binary body.

import { siteUrl } from './site.js'

/** Read the comparison: its header, and a line {x, y} for each of `header.lines`. Throws the server's sentence. */
export async function readComparison({ ids, names, smoothing, log, window: range, signal }) {
  const query = new URLSearchParams({ ids: ids.join(',') })
  names.forEach((name) => query.append('name', name))
  if (smoothing) query.set('smoothing', smoothing)
  if (log) query.set('log', 1)
  if (range) {
    query.set('from', range[0])
    query.set('to', range[1])
  }
  const response = await fetch(siteUrl(`/api/compare?${query}`), { signal })
  if (!response.ok) throw new Error(await response.text())
  const body = await response.arrayBuffer()
  const length = new DataView(body).getUint32(0, true)
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, length)))
  let offset = 4 + length
  const lines = header.lines.map(({ points }) => {
    const x = Array.from(new Float64Array(body, offset, points))
    offset += 8 * points
    const y = Array.from(new Float32Array(body, offset, points))
    offset += 8 * Math.ceil(points / 2)
    return { x, y }
  })
  return { ...header, lines: header.lines.map((facts, index) => ({ ...facts, ...lines[index] })) }
}
