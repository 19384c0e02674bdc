// The Compare page: curves of several runs over each other, their results, the options that differ, and how these go
// together. The address has the runs and the view, so a link restores both.

import { chooseAxis } from './axis.js'
import { Curve } from './curve.js'
import { readComparison } from './comparison.js'
import { CONFIG, buildLayout, buildTraces, escapeText, findUnit } from './figure.js'
import { formatInteger, formatTick, formatWithUnit } from './format.js'
import { changeQuery, open, readQuery } from './navigate.js'
import { drawParallel } from './parallel.js'
import { loadPlotly } from './plotly.js'
import { Settings } from './settings.js'
import { siteUrl } from './site.js'
import { subscribe } from './stream.js'
import { pickColor, readTheme, withOpacity } from './theme.js'

const HEIGHT = 300
const SCATTER_HEIGHT = 300
const REFRESH_MS = 3000
const SOON_MS = 150
const UNIFIED = 10 // more runs than this in one hover label would cover the chart
const PLAIN_AXIS = { stepsPerEpoch: null, times: {}, byTime: false }

const pages = new Map() // by the element that they fill
const filled = new WeakMap()

/** Draw or update the page. */
export function show({ data, parentElement }) {
  const element = parentElement.querySelector('.relight-compare')
  filled.set(parentElement, element)
  let page = pages.get(element)
  if (!page) pages.set(element, (page = new Comparison(element, data)))
  page.update()
}

/** Remove the page. */
export function remove({ parentElement }) {
  const element = filled.get(parentElement)
  pages.get(element)?.remove()
  pages.delete(element)
}

class Comparison {
  constructor(element, data) {
    this.element = element
    this.settings = new Settings((changes) => this.apply(changes))
    this.plots = new Map()
    this.zooms = new Map() // the visible steps by metric
    this.revision = 0
    this.unsubscribe = () => {}
    this.timer = 0
    this.resizes = new ResizeObserver(() => this.drawn && this.resize())
    this.readView()
    this.build()
    this.resizes.observe(this.charts)
    this.load()
    loadPlotly(data.plotly).then((Plotly) => {
      this.Plotly = Plotly
      this.draw()
    })
  }

  update() {
    const theme = readTheme(this.element)
    const themed = theme.signature !== this.theme?.signature
    this.theme = theme
    if (readQuery().get('ids') !== this.ids.join(',')) {
      this.readView()
      this.load()
    } else if (themed) this.draw()
  }

  remove() {
    this.removed = true
    this.unsubscribe()
    this.resizes.disconnect()
    this.settings.stop()
    this.loading?.abort()
    clearTimeout(this.timer)
    this.plots.forEach(({ plot }) => this.Plotly?.purge(plot))
    this.element.replaceChildren()
  }

  // --- the address -----------------------------------------------------------------------------------------------------

  readView() {
    const query = readQuery()
    this.ids = (query.get('ids') ?? '').split(',').filter(Boolean)
    this.names = query.get('metrics')?.split(' ').map(decodeURIComponent) ?? []
    this.hidden = new Set((query.get('hide') ?? '').split(',').filter(Boolean))
    this.sort = query.get('by') ?? ''
    this.scatter = { x: query.get('sx'), y: query.get('sy') }
  }

  writeView() {
    changeQuery({
      ids: this.ids.join(','),
      metrics: this.names.map(encodeURIComponent).join(' '),
      hide: [...this.hidden].join(','),
      by: this.sort,
      sx: this.scatter.x,
      sy: this.scatter.y,
    })
  }

  // --- data ------------------------------------------------------------------------------------------------------------

  load(ms = 0) {
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.read(), ms)
  }

  async read() {
    this.loading?.abort()
    const loading = (this.loading = new AbortController())
    if (!this.ids.length) {
      this.say('')
      const way = make('p', {}, 'Select 2 to 50 runs in the list, then press Compare.')
      this.note.replaceChildren(make('h2', {}, 'No runs are chosen'), way, pageLink('/', {}, 'See all runs'))
      this.note.hidden = false
      return
    }
    const { smoothing, logX } = this.settings.values
    try {
      const data = await readComparison({ ids: this.ids, names: this.names, smoothing, log: logX, signal: loading.signal })
      if (this.removed || this.loading !== loading) return
      this.data = data
      this.say(data.missing.length ? `Not there: ${data.missing.join(', ')}.` : '')
      this.follow()
      this.draw()
      this.zooms.forEach((range, metric) => this.refine(metric, range))
    } catch (error) {
      if (error.name === 'AbortError' || this.removed) return
      this.say(error instanceof TypeError ? 'The dashboard cannot be reached. Retrying…' : error.message)
      if (error instanceof TypeError) this.load(REFRESH_MS)
    }
  }

  /** Take note of a zoom, and read the visible steps in full. */
  zoomed(metric, change, log) {
    const range = change['xaxis.range'] ?? [change['xaxis.range[0]'], change['xaxis.range[1]']]
    if (change['xaxis.autorange'] && this.zooms.delete(metric)) this.load()
    if (range[0] === undefined) return
    this.zooms.set(metric, log ? range.map((end) => 10 ** end) : range)
    this.refine(metric, this.zooms.get(metric))
  }

  async refine(metric, range) {
    const { smoothing, logX } = this.settings.values
    const query = { ids: this.ids, names: [metric], smoothing, log: logX, window: range, signal: this.loading.signal }
    try {
      const { lines } = await readComparison(query)
      if (this.removed || this.zooms.get(metric) !== range) return
      this.data.lines = [...this.data.lines.filter((line) => line.metric !== metric), ...lines]
      this.draw()
    } catch {
      // What is drawn stays, only coarser.
    }
  }

  /** Read again while one of the runs trains. */
  follow() {
    const runs = this.data.runs.map(({ run }) => run)
    if (JSON.stringify(runs) === this.followed) return
    this.followed = JSON.stringify(runs)
    this.unsubscribe()
    const seen = new Map()
    this.unsubscribe = subscribe({
      watch: Object.fromEntries(runs.map((run) => [run, []])),
      onState: ({ run, step, status, metrics }) => {
        const before = seen.get(run)
        seen.set(run, JSON.stringify([step, status, metrics]))
        const shown = this.data.runs.find((one) => one.run === run)
        const same = before === undefined ? shown?.status === status : before === seen.get(run)
        if (same || this.refreshing) return
        this.refreshing = setTimeout(() => {
          this.refreshing = 0
          this.read()
        }, REFRESH_MS)
      },
    })
  }

  apply(changes) {
    this.drawToolbar()
    if ('logX' in changes) this.zooms.clear()
    if ('smoothing' in changes || 'logX' in changes) this.load(SOON_MS)
    else this.draw()
  }

  change() {
    this.writeView()
    this.draw()
  }

  // --- page ------------------------------------------------------------------------------------------------------------

  build() {
    this.element.innerHTML = `
      <h1>Compare</h1>
      <div class="relight-toolbar" role="group" aria-label="View">
        <label>Add metric <select data-role="metric"></select></label>
        <label>Smoothing <input type="range" min="0" max="0.99" step="0.01"><output></output></label>
        <button type="button" data-flag="logY">Log y</button><button type="button" data-flag="logX">Log x</button>
        <button type="button" data-flag="outliers" title="Scale the value axis without the highest and lowest 5 %">Ignore outliers</button>
        <button type="button" data-role="csv">Download CSV</button>
      </div>
      <div class="relight-board-note" role="status" hidden></div>
      <div class="relight-runs" role="group" aria-label="Runs"></div>
      <div class="relight-leading" data-role="charts"></div>
      <section class="relight-group" data-role="results"><h2>Results</h2></section>
      <section class="relight-group" data-role="options"><h2>Options that differ</h2></section>
      <section class="relight-group" data-role="parallel"><h2>Options and results</h2></section>`
    const find = (role) => this.element.querySelector(`[data-role=${role}]`)
    this.metric = find('metric')
    this.charts = find('charts')
    this.results = find('results')
    this.options = find('options')
    this.parallel = find('parallel')
    this.note = this.element.querySelector('.relight-board-note')
    this.chips = this.element.querySelector('.relight-runs')
    this.slider = this.element.querySelector('input[type=range]')
    this.output = this.element.querySelector('output')
    this.flags = [...this.element.querySelectorAll('[data-flag]')]
    this.metric.addEventListener('change', () => {
      if (this.metric.value) this.show([...this.data.metrics.map(({ name }) => name), this.metric.value])
    })
    this.slider.addEventListener('input', () => this.settings.set({ smoothing: Number(this.slider.value) }))
    this.flags.forEach((button) =>
      button.addEventListener('click', () => this.settings.set({ [button.dataset.flag]: !this.settings.values[button.dataset.flag] })),
    )
    find('csv').addEventListener('click', () => this.saveTable())
    this.drawToolbar()
  }

  drawToolbar() {
    const { values } = this.settings
    this.slider.value = values.smoothing
    this.output.textContent = values.smoothing ? values.smoothing.toFixed(2) : 'off'
    this.slider.setAttribute('aria-valuetext', this.output.textContent)
    this.flags.forEach((button) => button.setAttribute('aria-pressed', String(values[button.dataset.flag])))
  }

  say(sentence) {
    this.note.textContent = sentence
    this.note.hidden = !sentence
  }

  /** Draw these metrics. */
  show(names) {
    this.names = [...new Set(names)].slice(-8)
    this.writeView()
    this.load()
  }

  color(index) {
    return pickColor(this.theme, `chart${index + 1}`)
  }

  draw() {
    if (!this.data || this.removed || !this.theme) return
    const { runs, metrics, available } = this.data
    this.element.querySelector('h1').textContent = runs.length === 1 ? 'Compare 1 run' : `Compare ${runs.length} runs`
    const left = available.filter((name) => !metrics.some((one) => one.name === name))
    this.metric.replaceChildren(new Option('choose…', ''), ...left.map((name) => new Option(name, name)))
    this.metric.disabled = !left.length || metrics.length >= 8
    this.drawChips()
    this.drawResults()
    this.drawOptions()
    this.drawn = true
    this.drawPictures()
    this.element.dataset.drawn = `${runs.length} ${metrics.length}`
  }

  drawChips() {
    this.chips.replaceChildren(
      ...this.data.runs.map(({ run, name }, index) => {
        const chip = make('span', { className: 'relight-chip' })
        const toggle = make('button', { type: 'button', title: `Show or hide ${name}` }, make('i'), make('span', {}, name))
        toggle.firstChild.style.background = this.color(index)
        toggle.setAttribute('aria-pressed', String(!this.hidden.has(run)))
        toggle.addEventListener('click', () => {
          if (!this.hidden.delete(run)) this.hidden.add(run)
          this.change()
        })
        const away = make('button', { type: 'button', className: 'relight-away', title: 'Leave out of the comparison' }, '×')
        away.setAttribute('aria-label', `Leave ${name} out`)
        away.addEventListener('click', () => {
          this.ids = this.ids.filter((id) => id !== run)
          this.writeView()
          this.load()
        })
        chip.append(toggle, away)
        return chip
      }),
    )
  }

  // --- tables ----------------------------------------------------------------------------------------------------------

  facts(run, metric) {
    return this.data.lines.find((line) => line.run === run && line.metric === metric)
  }

  /** The columns of the results: {key, label, value(run), text(run)}. */
  columns() {
    const columns = [
      { key: 'name', label: 'Run', value: ({ name }) => name },
      { key: 'status', label: 'Status', value: ({ status }) => status, text: ({ status }) => statusWord(status) },
      { key: 'step', label: 'Step', value: ({ step }) => step, text: ({ step }) => formatInteger(step), number: true },
    ]
    for (const metric of this.data.metrics) {
      const { name, unit, higher_is_better: higher } = metric
      const word = (value) => (value === null || value === undefined ? '–' : formatWithUnit(value, unit))
      columns.push(
        {
          key: `best ${name}`,
          label: `Best ${name}`,
          number: true,
          higher,
          value: ({ run }) => this.facts(run, name)?.best,
          text: ({ run }) => word(this.facts(run, name)?.best),
          hint: ({ run }) => (this.facts(run, name) ? `at step ${formatInteger(this.facts(run, name).best_step)}` : ''),
        },
        {
          key: `final ${name}`,
          label: `Final ${name}`,
          number: true,
          higher,
          value: ({ run }) => this.facts(run, name)?.last,
          text: ({ run }) => (this.facts(run, name)?.last === null ? 'not finite' : word(this.facts(run, name)?.last)),
        },
      )
    }
    return columns
  }

  drawResults() {
    const columns = this.columns()
    const [wanted, down] = [this.sort.replace(/^-/, ''), this.sort.startsWith('-')]
    const by = columns.find(({ key }) => key === wanted)
    const runs = this.data.runs.map((run, index) => ({ ...run, index }))
    if (by) runs.sort((a, b) => order(by.value(a), by.value(b), down))
    const head = columns.map((column) => {
      const button = make('button', { type: 'button' }, column.label)
      button.addEventListener('click', () => {
        this.sort = this.sort === column.key ? `-${column.key}` : this.sort === `-${column.key}` ? '' : column.higher ? `-${column.key}` : column.key
        if (column.higher && this.sort === column.key) this.sort = ''
        this.change()
      })
      const cell = make('th', { scope: 'col', className: column.number ? 'right' : '' }, button)
      if (by === column) cell.setAttribute('aria-sort', down ? 'descending' : 'ascending')
      return cell
    })
    const winners = new Map(columns.filter(({ higher }) => higher !== undefined).map((column) => [column.key, winner(column, runs)]))
    const rows = runs.map((run) =>
      make(
        'tr',
        { className: this.hidden.has(run.run) ? 'relight-left-out' : '' },
        ...columns.map((column) => {
          if (column.key === 'name') return make('th', { scope: 'row' }, this.runLink(run))
          const cell = make('td', { className: column.number ? 'right' : '' }, (column.text ?? column.value)(run))
          if (winners.get(column.key) === run.run && runs.length > 1) cell.classList.add('relight-winner')
          const hint = column.hint?.(run)
          if (hint) cell.append(make('small', {}, hint))
          return cell
        }),
      ),
    )
    fill(this.results, table('Results', head, rows))
  }

  runLink({ run, name, index }) {
    const link = pageLink(`/run?${new URLSearchParams({ id: run })}`, { title: run }, make('i'), name)
    link.firstChild.style.background = this.color(index)
    return link
  }

  drawOptions() {
    const { runs, differing, equal } = this.data
    const same = equal ? `${formatInteger(equal)} ${equal === 1 ? 'option is' : 'options are'} the same in all runs.` : ''
    if (!differing.length) {
      fill(this.options, make('p', { className: 'relight-sub' }, `No option differs. ${same}`))
      return
    }
    const head = [make('th', { scope: 'col' }, 'Option'), ...runs.map((run, index) => make('th', { scope: 'col' }, this.runLink({ ...run, index })))]
    const rows = differing.map((key) => {
      const texts = runs.map(({ config }) => describe(config[key]))
      const usual = mostCommon(texts)
      return make(
        'tr',
        {},
        make('th', { scope: 'row' }, key),
        ...texts.map((text) => make('td', { className: text === usual ? 'relight-usual' : '' }, text)),
      )
    })
    fill(this.options, table('Options that differ', head, rows), make('p', { className: 'relight-sub' }, same))
  }

  saveTable() {
    if (!this.data) return
    const { runs, differing } = this.data
    const columns = this.columns().slice(1)
    const head = ['run', 'name', ...columns.map(({ label }) => label.toLowerCase()), ...differing]
    const rows = runs.map((run) => [run.run, run.name, ...columns.map(({ value }) => value(run)), ...differing.map((key) => plain(run.config[key]))])
    const text = [head, ...rows].map((row) => row.map(quote).join(',')).join('\r\n')
    const link = make('a', { href: URL.createObjectURL(new Blob([`${text}\r\n`], { type: 'text/csv' })), download: 'comparison.csv' })
    link.click()
    URL.revokeObjectURL(link.href)
  }

  // --- pictures --------------------------------------------------------------------------------------------------------

  drawPictures() {
    this.drawParallel()
    if (!this.Plotly) return
    this.drawCurves()
    this.drawScatter()
    document.dispatchEvent(new CustomEvent('relight-drawn'))
  }

  drawCurves() {
    const { runs, metrics, lines } = this.data
    const cards = metrics.map((metric) => {
      const { card, plot } = this.plot(metric.name, () => this.show(metrics.map(({ name }) => name).filter((name) => name !== metric.name)), metrics.length > 1)
      return { metric, card, plot }
    })
    place(this.charts, cards.map(({ card }) => card))
    const empty = { x: [], y: [] }
    for (const { metric, card, plot } of cards) {
      const curves = runs.flatMap(({ run, name }, index) => {
        const line = lines.find((one) => one.run === run && one.metric === metric.name)
        if (!line) return []
        const curve = new Curve({ id: run, label: name, color: `chart${index + 1}` })
        return [Object.assign(curve, { main: line, ghosts: empty, smoothed: empty })]
      })
      const unit = findUnit(metric.unit, curves)
      const settings = this.settings.values
      const axis = chooseAxis('step', PLAIN_AXIS)
      const context = { axis, unit, theme: this.theme, hidden: this.hidden, settings }
      const traces = curves.flatMap((curve) => buildTraces(curve, context)).filter(({ uid }) => !uid.endsWith('-ghosts'))
      const layout = buildLayout({
        ...context, plan: {}, curves, height: HEIGHT, width: plot.clientWidth, revision: (this.revision += 1), shapes: [], times: {},
      })
      if (runs.length > UNIFIED) {
        layout.hovermode = 'closest'
        traces.forEach((trace) => (trace.hovertemplate = `%{x:,d}: ${trace.hovertemplate}`))
      }
      this.Plotly.react(plot, traces, layout, CONFIG)
      if (!plot.followed) plot.on('plotly_relayout', (change) => this.zoomed(metric.name, change, plot._fullLayout.xaxis.type === 'log'))
      plot.followed = true
      const smoothed = curves.some(({ main }) => main.smoothed)
      card.querySelector('.relight-chart-legend').textContent = smoothed ? 'smoothed' : ''
      plot.setAttribute('aria-label', `${metric.name} of ${curves.length} runs`)
    }
  }

  /** Fit the charts to the width that the page has now. */
  resize() {
    for (const { plot } of this.plots.values()) {
      if (plot.clientWidth && plot.classList.contains('js-plotly-plot')) this.Plotly.Plots.resize(plot).catch(() => {}) // the page was left
    }
    this.drawPictures()
  }

  plot(name, close, removable) {
    if (!this.plots.has(name)) {
      const card = make('article', { className: 'relight-chart' })
      card.innerHTML = `
        <header class="relight-chart-head"><span class="relight-chart-title"></span><span class="relight-chart-legend"></span>
        <button type="button" class="relight-more">×</button></header><div class="relight-chart-plot" role="group"></div>`
      card.querySelector('.relight-chart-title').textContent = name
      card.querySelector('.relight-more').setAttribute('aria-label', `Remove ${name}`)
      this.plots.set(name, { card, plot: card.querySelector('.relight-chart-plot') })
    }
    const entry = this.plots.get(name)
    const button = entry.card.querySelector('.relight-more')
    button.onclick = close
    button.hidden = !removable
    return entry
  }

  /** What a scatter or the parallel coordinates can show, besides the options: the best and the final values. */
  measures() {
    return this.data.metrics.flatMap(({ name, unit }) => [
      { key: `best ${name}`, unit, value: (run) => this.facts(run, name)?.best },
      { key: `final ${name}`, unit, value: (run) => this.facts(run, name)?.last },
    ])
  }

  drawParallel() {
    const { runs, differing } = this.data
    if (!this.pictures) {
      this.pictures = make('div', { className: 'relight-pictures' })
      this.pictures.innerHTML = `
        <div class="relight-chart"><svg role="img"></svg></div>
        <div class="relight-chart"><header class="relight-chart-head">
          <label>x <select data-role="x"></select></label><label>y <select data-role="y"></select></label>
        </header><div class="relight-chart-plot" role="group"></div></div>`
      this.parallel.append(this.pictures)
      for (const role of ['x', 'y']) {
        this.pictures.querySelector(`[data-role=${role}]`).addEventListener('change', (event) => {
          this.scatter[role] = event.target.value
          this.change()
        })
      }
    }
    this.parallel.hidden = !differing.length || runs.length < 2
    if (this.parallel.hidden) return
    const svg = this.pictures.querySelector('svg')
    const axes = [
      ...differing.slice(0, 8).map((key) => ({ label: key, values: runs.map(({ config }) => plain(config[key])) })),
      ...this.measures().filter(({ key }) => key.startsWith('best')).map(({ key, value }) => ({ label: key, values: runs.map(({ run }) => value(run)) })),
    ]
    drawParallel(svg, {
      axes,
      runs: runs.map(({ run, name }, index) => ({ name, color: this.color(index), faint: this.hidden.has(run) })),
      width: Math.max(560, svg.parentElement.clientWidth - 24, axes.length * 90),
      describe: (value) => (typeof value === 'number' ? formatTick(value) : String(value)),
    })
    svg.setAttribute('aria-label', `Parallel coordinates of ${runs.length} runs over ${axes.map(({ label }) => label).join(', ')}`)
  }

  drawScatter() {
    const { runs, differing } = this.data
    if (this.parallel.hidden || !this.data.metrics.length) return
    const measures = this.measures()
    const x = differing.includes(this.scatter.x) ? this.scatter.x : mostTelling(differing, runs)
    const y = measures.find(({ key }) => key === this.scatter.y) ?? measures[0]
    choices(this.pictures.querySelector('[data-role=x]'), differing, x)
    choices(this.pictures.querySelector('[data-role=y]'), measures.map(({ key }) => key), y.key)
    const plot = this.pictures.querySelector('.relight-chart-plot')
    const values = runs.map(({ config }) => plain(config[x]) ?? 'none')
    const numeric = values.every((value) => typeof value === 'number')
    const wide = numeric && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 100
    const trace = {
      type: 'scatter',
      mode: 'markers',
      uid: 'scatter',
      x: numeric ? values : values.map((value) => escapeText(String(value))),
      y: runs.map(({ run }) => y.value(run)),
      text: runs.map(({ name }) => escapeText(name)),
      hovertemplate: '%{text}<br>%{x}: %{y}<extra></extra>',
      marker: { size: 10, color: runs.map(({ run }, index) => withOpacity(this.color(index), this.hidden.has(run) ? 0.2 : 0.9)) },
    }
    const layout = buildLayout({
      axis: chooseAxis('step', PLAIN_AXIS), unit: y.unit, theme: this.theme, hidden: this.hidden, settings: { logX: false, logY: this.settings.values.logY },
      plan: {}, curves: [], height: SCATTER_HEIGHT, width: plot.clientWidth, revision: (this.revision += 1), shapes: [], times: {},
    })
    const { dtick, tickformat, hoverformat, unifiedhovertitle, ...axis } = layout.xaxis
    layout.xaxis = { ...axis, showgrid: true, exponentformat: 'e', type: numeric ? (wide ? 'log' : 'linear') : 'category', title: { text: escapeText(x), standoff: 8 }, ...(wide ? { dtick: 1 } : {}) }
    layout.yaxis = { ...layout.yaxis, title: { text: escapeText(y.key), standoff: 8 } }
    layout.margin = { ...layout.margin, b: 48, l: 60 }
    layout.hovermode = 'closest'
    this.Plotly.react(plot, [trace], layout, CONFIG)
    plot.setAttribute('aria-label', `${y.key} against ${x}, a point for each run`)
    this.plots.set('scatter', { plot })
  }
}

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties)
  element.append(...children.map((child) => (child instanceof Node ? child : String(child ?? '–'))))
  return element
}

function statusWord(status) {
  return make('span', { className: `relight-status ${status}` }, status.slice(0, 1).toUpperCase() + status.slice(1))
}

function table(label, head, rows) {
  const scroll = make('div', { className: 'relight-scroll', tabIndex: 0 })
  scroll.setAttribute('role', 'region')
  scroll.setAttribute('aria-label', `${label}, scrollable`)
  const body = make('table', {}, make('thead', {}, make('tr', {}, ...head)), make('tbody', {}, ...rows))
  body.setAttribute('aria-label', label)
  scroll.append(body)
  return scroll
}

/** Replace everything in a section but its heading. */
function fill(section, ...children) {
  section.replaceChildren(section.firstElementChild, ...children)
}

function place(parent, nodes) {
  nodes.forEach((node, index) => {
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null)
  })
  while (parent.children.length > nodes.length) parent.lastChild.remove()
}

/** Make a link to a page of this site, which a plain click opens without a reload. */
function pageLink(path, facts, ...children) {
  const link = make('a', { href: siteUrl(path), ...facts }, ...children)
  link.addEventListener('click', (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return
    event.preventDefault()
    open(link.getAttribute('href'))
  })
  return link
}

function choices(select, values, chosen) {
  if (JSON.stringify([...select.options].map(({ value }) => value)) !== JSON.stringify(values)) {
    select.replaceChildren(...values.map((value) => new Option(value, value)))
  }
  select.value = chosen
}

/** Return the option for a scatter's x axis: a number rather than a text, with many different values. */
function mostTelling(differing, runs) {
  const rank = (key) => {
    const values = runs.map(({ config }) => config[key])
    return (values.every((value) => typeof value === 'number') ? 1000 : 0) + new Set(values.map(String)).size
  }
  return [...differing].sort((a, b) => rank(b) - rank(a))[0]
}

/** Order two values, missing ones last. */
function order(a, b, down) {
  const missing = (value) => value === null || value === undefined || value === ''
  if (missing(a) || missing(b)) return missing(a) - missing(b)
  const sign = typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b), 'en', { numeric: true })
  return down ? -sign : sign
}

function winner({ value, higher }, runs) {
  const [first] = runs.filter((run) => Number.isFinite(value(run))).sort((a, b) => (higher ? value(b) - value(a) : value(a) - value(b)))
  return first?.run
}

function mostCommon(texts) {
  const counts = new Map()
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1)
  const [[text, count]] = [...counts].sort((a, b) => b[1] - a[1])
  return count > 1 ? text : null
}

/** A config's value as a number or a text. */
function plain(value) {
  return typeof value === 'number' || value === undefined || value === null ? value : typeof value === 'string' ? value : JSON.stringify(value)
}

function describe(value) {
  if (value === undefined) return '–'
  if (value === null || value === '') return 'none'
  return typeof value === 'number' ? String(Number(value.toPrecision(6))) : String(plain(value))
}

/** Quote a cell of a CSV file; a text that a spreadsheet would take for a formula gets an apostrophe. */
function quote(value) {
  if (value === null || value === undefined) return ''
  if (typeof value === 'number') return String(value)
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}
