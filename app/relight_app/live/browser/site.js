// The dashboard's own addresses, wherever it is served from: this module's address ends in /assets/live/DIGEST/site.js.

const BASE = new URL('../../..', import.meta.url).pathname.replace(/\/$/, '')

/** Return the address of a route of ours, such as "/api/stream". */
export function siteUrl(path) {
  return BASE + path
}
