// What the x axis of a chart shows. Curves keep steps or milliseconds; an axis turns them into what is drawn.

const UNITS = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['min', 60_000],
  ['s', 1000],
]

/**
 * Return the axis for a chart: `kind` is 'step' or 'time' (what its curves keep), `to` and `from` convert a position to
 * and from what is drawn. `times` is {begin, end} of the run in milliseconds.
 */
export function chooseAxis(mode, { byTime, stepsPerEpoch, times }) {
  const chosen = byTime && mode !== 'relative' ? 'wall' : mode === 'epoch' && !stepsPerEpoch ? 'step' : mode
  const same = (x) => x
  switch (chosen) {
    case 'epoch':
      return { mode: chosen, kind: 'step', to: (x) => x / stepsPerEpoch, from: (x) => x * stepsPerEpoch }
    case 'wall':
      return { mode: chosen, kind: 'time', to: toLocal, from: fromLocal }
    case 'relative': {
      const begin = times.begin ?? 0
      const [unit, size] = UNITS.find(([, ms]) => times.end - begin >= 2 * ms) ?? UNITS[UNITS.length - 1]
      return { mode: chosen, kind: 'time', unit, to: (x) => (x - begin) / size, from: (x) => x * size + begin }
    }
    default:
      return { mode: 'step', kind: 'step', to: same, from: same }
  }
}

/** Read a position that Plotly reports: a number, or a date as text. */
export function parsePosition(value) {
  return typeof value === 'number' ? value : /^\d+-/.test(value) ? Date.parse(`${value.replace(' ', 'T')}Z`) : Number(value)
}

// Plotly draws dates in UTC. Shift them to show local time.
function toLocal(ms) {
  return ms - new Date(ms).getTimezoneOffset() * 60000
}

function fromLocal(ms) {
  return ms + new Date(ms).getTimezoneOffset() * 60000
}
