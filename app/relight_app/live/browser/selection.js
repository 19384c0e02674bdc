// The runs that are selected in a list. The boxes are `data-select="RUN"`; what can be done with the selected ones is in
// `data-selection`, which is hidden while nothing is selected: `data-each` does an action for each of them, and
// `data-with-selected="/compare?ids="` leads to a page for all of them.

/** Keeps which runs are selected while the list below `root` changes. */
export class Selection {
  constructor(root) {
    this.root = root
    this.runs = new Set()
    this.last = null
  }

  /** Take a click on a box: with Shift, all boxes since the last click change. */
  click(box, extend) {
    const boxes = this.boxes()
    const [from, to] = [boxes.indexOf(this.last), boxes.indexOf(box)].sort((a, b) => a - b)
    for (const one of extend && from >= 0 ? boxes.slice(from, to + 1) : [box]) this.set(one, box.checked)
    this.last = box
    this.show()
  }

  /** Select every run that the list shows, or none. */
  all(on) {
    for (const box of this.boxes()) this.set(box, on)
    this.show()
  }

  /** Return the selected runs in the order of the list. */
  list() {
    return this.boxes().map((box) => box.dataset.select).filter((run) => this.runs.has(run))
  }

  /** Mark what is selected, and show what can be done with it. */
  show() {
    const boxes = this.boxes()
    const shown = new Set(boxes.map((box) => box.dataset.select))
    for (const run of this.runs) if (!shown.has(run)) this.runs.delete(run)
    for (const box of boxes) box.checked = this.runs.has(box.dataset.select)
    const all = this.root.querySelector('[data-select-all]')
    if (all) {
      all.checked = boxes.length > 0 && this.runs.size === boxes.length
      all.indeterminate = this.runs.size > 0 && !all.checked
    }
    for (const bar of this.root.querySelectorAll('[data-selection]')) {
      bar.hidden = this.runs.size === 0
      const words = bar.querySelector('[data-count]')
      if (words) words.textContent = `${this.runs.size} selected`
    }
    const query = new URLSearchParams({ ids: this.list().join(',') })
    for (const button of this.root.querySelectorAll('[data-selection] [data-part-of-selected]')) {
      button.dataset.confirmPart = `/parts/${button.dataset.partOfSelected}?${query}`
    }
  }

  boxes() {
    return [...this.root.querySelectorAll('[data-select]')]
  }

  set(box, on) {
    if (on) this.runs.add(box.dataset.select)
    else this.runs.delete(box.dataset.select)
  }
}
