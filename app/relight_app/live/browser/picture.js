// A chart as a picture file, with its title, its legend and the name of the run.

import { escapeText } from './figure.js'

const WIDTH = 1200
const HEIGHT = 675

/** Save the drawn chart as "png" or "svg". */
export async function savePicture(Plotly, { plot, format, ...words }) {
  const { title, run } = words
  const { traces, layout } = describePicture(plot, words)
  const url = await Plotly.toImage({ data: traces, layout }, { format, width: WIDTH, height: HEIGHT, scale: format === 'png' ? 2 : 1 })
  const link = document.createElement('a')
  link.href = url
  link.download = `${`${run}-${title}`.replace(/[^\p{L}\p{N}._-]+/gu, '-').slice(0, 120)}.${format}`
  link.click()
}

function describePicture(plot, { title, run, axisTitle, theme }) {
  const font = { family: theme.font, size: 15, color: theme.text }
  const traces = plot.data.map((trace) => ({
    ...trace,
    name: `${trace.name}\u2003`, // the entries of a legend stand close together
    // One entry for each curve: its bold line.
    showlegend: trace.visible !== false && !/-(ghosts|origin)$/.test(trace.uid) && !plot.data.some(({ uid }) => uid === `${trace.uid}-smoothed`),
  }))
  const { xaxis, yaxis } = plot._fullLayout
  const keep = (axis, full) => ({ ...axis, range: [...full.range], autorange: false, tickfont: { ...font, size: 13 }, nticks: 8 })
  const layout = {
    ...plot.layout,
    width: WIDTH,
    height: HEIGHT,
    font,
    paper_bgcolor: theme.background,
    plot_bgcolor: theme.background,
    margin: { l: 80, r: 30, t: 110, b: 60 },
    title: {
      text: `<b>${escapeText(clip(title))}</b><br><span style="font-size:14px;color:${theme.quiet}">${escapeText(clip(run))}</span>`,
      x: 0.02,
      xanchor: 'left',
      y: 0.95,
      yanchor: 'top',
      font: { ...font, size: 20 },
    },
    showlegend: true,
    legend: { orientation: 'h', x: 1, xanchor: 'right', y: 1.02, yanchor: 'bottom', font },
    xaxis: { ...keep(plot.layout.xaxis, xaxis), title: { text: axisTitle, font } },
    yaxis: keep(plot.layout.yaxis, yaxis),
  }
  return { traces, layout }
}

function clip(text) {
  return text.length > 100 ? `${text.slice(0, 99)}…` : text
}
