"""Reads and zooms a live chart in the browser."""

from __future__ import annotations

from typing import cast

from playwright.sync_api import Locator, Page


class Chart:
    """The chart with the given title on the page of a run."""

    def __init__(self, page: Page, title: str) -> None:
        self.page = page
        heading = page.locator(".relight-chart-title").get_by_text(title, exact=True)
        self.element: Locator = page.locator(".relight-chart").filter(has=heading)
        self.plot: Locator = self.element.locator(".relight-chart-plot")

    def points(self, label: str) -> list[int]:
        """Return the steps of the drawn curve, without its ghosts."""
        script = """(plot, label) => Array.from(
          plot._fullData.find((trace) => trace.name === label && !/-(ghosts|origin)$/.test(trace.uid))?.x ?? [])"""
        return [int(step) for step in self.plot.evaluate(script, label)]

    def wait_for_step(self, step: int) -> None:
        """Wait until the first curve is drawn up to `step`."""
        self.page.wait_for_function(
            "([plot, step]) => plot._fullData?.some((trace) => trace.x?.at(-1) >= step)",
            arg=[self.plot.element_handle(), step],
        )

    def wait_for_connection(self, connection: str) -> None:
        """Wait until the connection of the chart is "open" or "lost"."""
        self.page.wait_for_function(
            "([chart, connection]) => chart.dataset.connection === connection",
            arg=[self.element.element_handle(), connection],
        )

    def zoom(self) -> list[float]:
        """Zoom into the middle of the steps with the mouse; return the new range."""
        box = self.plot.locator(".nsewdrag").first.bounding_box()
        assert box is not None
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + box["width"] * 0.3, y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=5)
        self.page.mouse.up()
        self.page.wait_for_function(
            "plot => plot._fullLayout.xaxis.autorange === false", arg=self.plot.element_handle()
        )
        return self.range()

    def range(self) -> list[float]:
        """Return the first and the last step of the visible range."""
        return [float(end) for end in self.plot.evaluate("plot => plot._fullLayout.xaxis.range")]

    def mark(self) -> None:
        """Mark the SVG element, to see later whether it is still the same one."""
        self.plot.evaluate("plot => { plot.querySelector('.main-svg').marked = true }")

    def is_marked(self) -> bool:
        """Return whether the SVG element is still the marked one."""
        return cast(bool, self.plot.evaluate("plot => plot.querySelector('.main-svg').marked === true"))
