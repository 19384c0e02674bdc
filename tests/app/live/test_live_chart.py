"""Live charts in a real browser: what is logged is on the screen at once, and what a person does with a chart stays."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect
from relight.metrics.writer import MetricWriter
from relight.runs.layout import RunLayout

from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import log_rows, make_run

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("live")]

LOSS = ".st-key-loss .relight-chart"
PLOT = f"{LOSS} .relight-chart-plot"
OpenPage = Callable[..., Page]

# Notes when each step was first drawn: the attribute is set in the frame that draws it.
_WATCH_STEPS = f"""() => {{
  const chart = document.querySelector('{LOSS}')
  window.drawn = []
  new MutationObserver(() => {{
    const step = Number(chart.dataset.last.split(' ')[0])
    requestAnimationFrame(() => window.drawn.push([step, Date.now()]))
  }}).observe(chart, {{ attributes: true, attributeFilter: ['data-last'] }})
}}"""


class Feed:
    """Logs steps of a run on a thread of its own, as a trainer would."""

    def __init__(self, layout: RunLayout, *, first: int, interval_s: float = 0.1) -> None:
        self.logged: dict[int, float] = {}
        self._layout = layout
        self._step = first
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        writer = MetricWriter(self._layout.metrics, stream="train", attempt=2)
        while not self._stop.wait(self._interval_s):
            self.logged[self._step] = time.time()
            writer.log(self._step, {"loss": 1 + math.sin(self._step / 7)})
            self._step += 1
        writer.close()


def _made(folder: Path, rows: int = 100) -> RunLayout:
    layout = make_run(folder)
    log_rows(layout, [(step, {"loss": 3 / step}) for step in range(1, rows + 1)])
    log_rows(layout, [(step, {"loss": 4 / step}) for step in range(10, rows + 1, 10)], stream="validation")
    log_rows(layout, [(step, {"cpu_percent": 50.0 + step}) for step in range(40)], stream="system")
    return layout


def _data(page: Page, trace: str = "", selector: str = PLOT) -> list[tuple[float, float | None]]:
    """The points of the trace whose id ends so, as drawn."""
    script = """([selector, name]) => {
      const trace = document.querySelector(selector)._fullData.find((one) => one.uid.endsWith(name))
      return trace ? Array.from(trace.x, (x, i) => [x, Number.isFinite(trace.y[i]) ? trace.y[i] : null]) : []
    }"""
    return [(x, y) for x, y in page.evaluate(script, [selector, trace])]


def _last_step(page: Page) -> int:
    return int(page.locator(LOSS).get_attribute("data-last").split(" ")[0])  # type: ignore[union-attr]


def _wait_for_step(page: Page, step: int) -> None:
    page.wait_for_function(
        "([selector, step]) => Number(document.querySelector(selector).dataset.last.split(' ')[0]) >= step",
        arg=[LOSS, step],
    )


def _axis(page: Page, name: str = "xaxis") -> list[float]:
    return [float(end) for end in page.evaluate(f"() => document.querySelector('{PLOT}')._fullLayout.{name}.range")]


def _zoom(page: Page, begin: float = 0.3, end: float = 0.6) -> None:
    box = page.locator(f"{PLOT} .nsewdrag").first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * begin, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * end, y, steps=5)
    page.mouse.up()


def test_a_log_call_is_on_the_screen_within_a_second(runs: Path, open_page: OpenPage, problems: list[str]) -> None:
    layout = _made(runs)
    page = open_page(layout.run_id)
    page.evaluate(_WATCH_STEPS)
    with Feed(layout, first=101) as feed:
        _wait_for_step(page, 160)
    drawn: list[tuple[int, float]] = page.evaluate("() => window.drawn")
    delays = [
        min(at for shown, at in drawn if shown >= step) / 1000 - logged
        for step, logged in feed.logged.items()
        if step <= drawn[-1][0]
    ]
    median = statistics.median(delays)
    print(f"log call to drawn: median {median * 1000:.0f} ms, largest {max(delays) * 1000:.0f} ms, n {len(delays)}")
    assert len(delays) >= 50
    assert median < 1.0
    assert problems == []


def test_zoom_hover_and_the_dom_survive_new_rows_and_reruns(
    runs: Path, open_page: OpenPage, problems: list[str]
) -> None:
    layout = _made(runs)
    page = open_page(layout.run_id)
    page.evaluate(f"() => {{ window.node = document.querySelector('{PLOT} .main-svg') }}")
    _zoom(page)
    page.wait_for_function(f"() => document.querySelector('{PLOT}')._fullLayout.xaxis.autorange === false")
    zoomed = _axis(page)
    with Feed(layout, first=101):
        _wait_for_step(page, 110)
        box = page.locator(f"{PLOT} .nsewdrag").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
        page.wait_for_selector(f"{PLOT} .hoverlayer .legend")
        page.evaluate(
            f"""() => {{
              window.frames_seen = 0; window.frames_with_hover = 0
              const look = () => {{
                window.frames_seen += 1
                if (document.querySelector('{PLOT} .hoverlayer .legend')) window.frames_with_hover += 1
                window.looking = requestAnimationFrame(look)
              }}
              look()
            }}"""
        )
        _wait_for_step(page, _last_step(page) + 15)
        seen, with_hover = page.evaluate("() => [window.frames_seen, window.frames_with_hover]")
        print(f"frames with the hover label: {with_hover} of {seen}")
        assert _axis(page) == zoomed
        page.get_by_role("button", name="Rerun").click()
        expect(page.get_by_text("reruns: 2")).to_be_visible()
        _wait_for_step(page, _last_step(page) + 5)
    assert with_hover == seen
    assert _axis(page) == zoomed
    assert page.evaluate(f"() => window.node === document.querySelector('{PLOT} .main-svg')"), "drawn in place"
    assert problems == []


def test_no_request_leaves_the_machine(
    runs: Path, open_page: OpenPage, browser: Any, dashboard: ServedDashboard
) -> None:
    layout = _made(runs)
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.goto(f"{dashboard.link}&run={layout.run_id}")
    page.wait_for_selector(f"{LOSS}[data-points]", timeout=60_000)
    context.close()
    assert any("plotly.min.js" in url for url in asked) and any(url.startswith("ws:") for url in asked)
    elsewhere = [url for url in asked if urlsplit(url.removeprefix("blob:")).hostname not in {"127.0.0.1", None}]
    assert elsewhere == []
    assert not [url for url in asked if urlsplit(url).scheme not in {"http", "ws", "blob", "data"}]
