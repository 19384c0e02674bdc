// Parallel coordinates: a line for each run, over the options that differ and the results.

const HEIGHT = 320
const TOP = 44
const BOTTOM = 18
const NAMESPACE = 'http://www.w3.org/2000/svg'

/**
 * Draw into `svg`. `axes` are {label, values: one for each run}, `runs` have {name, color, faint}. Numbers are placed
 * by size (by their logarithm where they span more than two powers of ten), everything else in order.
 */
export function drawParallel(svg, { axes, runs, width, describe }) {
  svg.replaceChildren()
  svg.setAttribute('width', width)
  svg.setAttribute('height', HEIGHT)
  const gap = axes.length > 1 ? (width - 140) / (axes.length - 1) : 0
  const scales = axes.map(({ values }) => makeScale(values))
  const at = (axis, run) => {
    const share = scales[axis].place(axes[axis].values[run])
    return share === null ? null : [70 + axis * gap, TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)]
  }
  runs.forEach(({ name, color, faint }, run) => {
    const parts = [[]]
    axes.forEach((_, axis) => {
      const point = at(axis, run)
      if (point) parts[parts.length - 1].push(point)
      else parts.push([])
    })
    const path = make('path', {
      d: parts.filter((part) => part.length > 1).map((part) => `M${part.map((point) => point.join(' ')).join('L')}`).join(''),
      fill: 'none',
      stroke: color,
      'stroke-width': 1.75,
      'stroke-linejoin': 'round',
      opacity: faint ? 0.12 : 0.8,
      class: 'relight-parallel-line',
    })
    path.append(make('title', {}, name))
    svg.append(path)
  })
  axes.forEach(({ label }, axis) => {
    const x = 70 + axis * gap
    svg.append(make('line', { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM, class: 'relight-parallel-axis' }))
    const title = make('text', { x, y: 14, 'text-anchor': 'middle', class: 'relight-parallel-label' }, clip(label, gap / 7.5 || 30))
    title.append(make('title', {}, label))
    svg.append(title)
    for (const [share, value] of scales[axis].ticks) {
      const y = TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)
      svg.append(make('text', { x: x + 6, y: y + 4, class: 'relight-parallel-tick' }, clip(describe(value, label), gap / 8 || 30)))
    }
  })
}

function makeScale(values) {
  const known = values.filter((value) => value !== undefined && value !== null)
  if (known.length && known.every((value) => typeof value === 'number')) {
    const [low, high] = [Math.min(...known), Math.max(...known)]
    const log = low > 0 && high / low > 100
    const to = log ? Math.log10 : (value) => value
    const span = to(high) - to(low)
    const middle = log ? 10 ** ((to(low) + to(high)) / 2) : (low + high) / 2
    const ticks = span ? [[0, low], [0.5, middle], [1, high]] : [[0.5, low]]
    return { ticks, place: (value) => (typeof value === 'number' ? (span ? (to(value) - to(low)) / span : 0.5) : null) }
  }
  const order = [...new Set(known.map(String))].sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))
  const share = (text) => (order.length > 1 ? order.indexOf(text) / (order.length - 1) : 0.5)
  return {
    ticks: order.length <= 12 ? order.map((text) => [share(text), text]) : [],
    place: (value) => (value === undefined || value === null ? null : share(String(value))),
  }
}

function make(name, attributes, text) {
  const element = document.createElementNS(NAMESPACE, name)
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value))
  if (text !== undefined) element.textContent = text
  return element
}

/** Leave out the middle of a long text: names differ at their ends. */
function clip(text, most) {
  if (text.length <= most) return text
  const kept = Math.max(4, Math.floor(most) - 1)
  return `${text.slice(0, Math.ceil(kept / 2))}…${text.slice(-Math.floor(kept / 2))}`
}
