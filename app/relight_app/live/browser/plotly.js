// Loads Plotly.js once per tab, from the dashboard itself.

const RETRY_MS = 1000

let loading = null

/** Load Plotly.js from this address; while the dashboard cannot be reached, try again. */
export function loadPlotly(address) {
  loading ??= new Promise((resolve) => {
    const load = () => {
      const script = document.createElement('script')
      script.src = address
      script.onload = () => resolve(window.Plotly)
      script.onerror = () => {
        script.remove()
        setTimeout(load, RETRY_MS)
      }
      document.head.appendChild(script)
    }
    load()
  })
  return loading
}
