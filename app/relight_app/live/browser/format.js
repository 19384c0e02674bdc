// Numbers as people read them, worded as `relight.wording` and `relight_app.formats` word them in Python.

const BYTE_UNITS = ['kB', 'MB', 'GB', 'TB', 'PB']

/** Format a measured value with four significant digits; very large and very small ones with an exponent. */
export function formatNumber(value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'NaN' : value > 0 ? '∞' : '−∞'
  const size = Math.abs(value)
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(3).replace('e+', 'e')
  if (Number.isInteger(value)) return formatInteger(value)
  const digits = Math.max(0, Math.min(6, 3 - Math.floor(Math.log10(size))))
  return size < 1000 ? value.toFixed(digits) : formatInteger(value)
}

/** Format a value of a scale, without zeros at the end of its fraction: "0.5", "0.2125". */
export function formatTick(value) {
  const text = formatNumber(value)
  return /^-?\d+\.\d+$/.test(text) ? text.replace(/\.?0+$/, '') : text
}

/** Format a count: "12,345". */
export function formatInteger(value) {
  return Number.isFinite(value) ? (Math.round(value) || 0).toLocaleString('en-US') : '–'
}

/** Format seconds in at most two units: "0.4 s", "42 s", "3 min 20 s", "2 h", "3 d 4 h". */
export function formatDuration(seconds) {
  if (!Number.isFinite(seconds)) return '–'
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`
  const whole = Math.round(seconds)
  for (const [size, unit, partSize, part] of [
    [86400, 'd', 3600, 'h'],
    [3600, 'h', 60, 'min'],
    [60, 'min', 1, 's'],
  ]) {
    if (whole < size) continue
    const rest = Math.floor((whole % size) / partSize)
    return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${part}` : ''}`
  }
  return `${whole} s`
}

/** Format bytes with three significant digits: "312 bytes", "530 MB", "1.5 GB". */
export function formatBytes(bytes) {
  if (!Number.isFinite(bytes)) return '–'
  if (Math.abs(bytes) < 1000) return `${Math.trunc(bytes)} ${Math.trunc(bytes) === 1 ? 'byte' : 'bytes'}`
  let size = bytes / 1000
  let unit = 0
  while (Math.abs(size) >= 999.5 && unit < BYTE_UNITS.length - 1) {
    size /= 1000
    unit += 1
  }
  return `${shorten(size)} ${BYTE_UNITS[unit]}`
}

/** Format steps per second, or the time per step of slow steps. */
export function formatRate(rate) {
  if (!Number.isFinite(rate) || rate <= 0) return '–'
  if (rate < 1) return `${formatDuration(1 / rate)}/step`
  return `${rate < 999.5 ? shorten(rate) : formatInteger(rate)} steps/s`
}

/** Format a value with a chart's unit. */
export function formatWithUnit(value, unit) {
  if (unit === 'ratio' && value >= 0 && value <= 1) return `${(value * 100).toFixed(2)} %`
  if (unit === 'ratio' || !unit || !Number.isFinite(value)) return formatNumber(value)
  if (unit === 'B') return formatBytes(value)
  if (unit === '%') return `${value.toFixed(Math.abs(value) < 10 ? 1 : 0)} %`
  return `${formatNumber(value)} ${unit}`
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

/** Write a number with three significant digits, without zeros at the end of its fraction. */
function shorten(value) {
  return String(Number(value.toPrecision(3)))
}
