// Loads Plotly.js once per tab, from the dashboard itself.

let loading = null

/** Load Plotly.js from this address; a failed load can be tried again. */
export function loadPlotly(address) {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement('script')
    script.src = address
    script.onload = () => resolve(window.Plotly)
    script.onerror = () => {
      loading = null
      script.remove()
      reject(new Error('Plotly.js could not be loaded'))
    }
    document.head.appendChild(script)
  })
  return loading
}
