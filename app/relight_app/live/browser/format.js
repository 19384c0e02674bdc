// Numbers as people read them.

const SI = ['', 'k', 'M', 'G', 'T', 'P']

/** Format a measured value with four significant digits; very large and very small ones with an exponent. */
function formatNumber(value) {
  if (!Number.isFinite(value)) return '–'
  const size = Math.abs(value)
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace('e+', 'e')
  if (Number.isInteger(value)) return formatInteger(value)
  return value.toFixed(Math.max(0, Math.min(5, 3 - Math.floor(Math.log10(size || 1)))))
}

/** Format a count: "12,345". */
function formatInteger(value) {
  return Number.isFinite(value) ? Math.round(value).toLocaleString('en-US') : '–'
}

/** Format seconds: "42 s", "3 min 20 s", "2 h 5 min", "3 d 4 h". */
function formatDuration(seconds) {
  if (!Number.isFinite(seconds)) return '–'
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`
}

/** Format bytes: "1.5 GB". */
function formatBytes(bytes) {
  if (!Number.isFinite(bytes)) return '–'
  let power = 0
  let size = Math.abs(bytes)
  while (size >= 999.5 && power < SI.length - 1) {
    size /= 1000
    power += 1
  }
  return `${bytes < 0 ? '-' : ''}${size.toPrecision(3).replace(/\.?0+$/, '')} ${SI[power]}B`
}

/** Format steps per second, or the time per step of slow steps. */
function formatRate(rate) {
  if (!Number.isFinite(rate) || rate <= 0) return '–'
  return rate >= 0.5 ? `${Number(rate.toPrecision(3))}/s` : `${formatDuration(1 / rate)}/step`
}

/** Format a value with a chart's unit. */
export function formatWithUnit(value, unit) {
  if (!Number.isFinite(value)) return '–'
  if (unit === 'ratio') return `${(value * 100).toFixed(value > 0.9995 || value === 0 ? 0 : 2)} %`
  if (unit === 'B') return formatBytes(value)
  if (unit === '%') return `${value.toFixed(Math.abs(value) < 10 ? 1 : 0)} %`
  return unit ? `${formatNumber(value)} ${unit}` : formatNumber(value)
}

/** Format a value as the `ValueFormat` of live_values.py says. */
export function formatAs(value, format) {
  if (value === null || value === undefined) return '–'
  if (typeof value === 'string') return value
  switch (format) {
    case 'integer':
      return formatInteger(value)
    case 'percent':
      return formatWithUnit(value, 'ratio')
    case 'duration':
      return formatDuration(value)
    case 'rate':
      return formatRate(value)
    default:
      return formatNumber(value)
  }
}
