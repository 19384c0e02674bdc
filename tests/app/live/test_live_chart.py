"""Live charts in a real browser show logged values at once, and keep the user's zoom and hover."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from relight.metrics.writer import MetricWriter
from relight.runs.layout import RunLayout
from tests.app.live.conftest import new_context, show_run
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import begin_attempt, log_rows, make_run
from tests.patience import stretch

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("live")]

LOSS = ".relight-chart[data-key=loss]"
CPU = ".relight-chart[data-key='system//cpu']"
PLOT = f"{LOSS} .relight-chart-plot"
OpenPage = Callable[..., Page]
DEAD_SERVER = ("ERR_", "WebSocket", "Failed to fetch", "/_stcore/health", "server is not responding")
"""What the console reports while there is no server."""

# Records when each step was first drawn: the attribute is set in the frame that draws it.
_WATCH_STEPS = f"""() => {{
  const chart = document.querySelector('{LOSS}')
  window.drawn = []
  new MutationObserver(() => {{
    const step = Number(chart.dataset.last.split(' ')[0])
    requestAnimationFrame(() => window.drawn.push([step, Date.now()]))
  }}).observe(chart, {{ attributes: true, attributeFilter: ['data-last'] }})
}}"""


class Feed:
    """Logs steps of a run in a separate thread, as a trainer does."""

    def __init__(self, layout: RunLayout, *, first: int, interval_s: float = 0.137) -> None:
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
    begin_attempt(layout, 1, time_s=time.time())
    log_rows(layout, [(step, {"loss": 3 / step}) for step in range(1, rows + 1)])
    log_rows(layout, [(step, {"loss": 4 / step}) for step in range(10, rows + 1, 10)], stream="validation")
    log_rows(layout, [(step, {"cpu_percent": 50.0 + step}) for step in range(40)], stream="system")
    return layout


def _uid(text: str) -> str:
    """Encode the end of a trace's id as figure.js does."""
    return text.replace("/", "_47").replace(" ", "_32").replace("cpu_percent", "cpu_95percent")


def _data(page: Page, trace: str = "", selector: str = PLOT) -> list[tuple[float, float | None]]:
    """Return the drawn points of a curve; `trace` is the end of its id: "train/loss", "train/loss-ghosts"."""
    script = """([selector, name]) => {
      const trace = document.querySelector(selector)._fullData.find((one) => one.uid.endsWith(name))
      return trace ? Array.from(trace.x, (x, i) => [x, Number.isFinite(trace.y[i]) ? trace.y[i] : null]) : []
    }"""
    return [(x, y) for x, y in page.evaluate(script, [selector, _uid(trace)])]


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
    assert median < stretch(1.0)
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
    assert any("plotly-scatter.min.js" in url for url in asked) and any(url.startswith("ws:") for url in asked)
    elsewhere = [url for url in asked if urlsplit(url.removeprefix("blob:")).hostname not in {"127.0.0.1", None}]
    assert elsewhere == []
    assert not [url for url in asked if urlsplit(url).scheme not in {"http", "ws", "blob", "data"}]


def test_files_that_a_dying_server_did_not_send_are_fetched_once_it_is_back(
    runs: Path, browser: Browser, dashboard: ServedDashboard
) -> None:
    layout = _made(runs)
    context = new_context(browser)
    page = context.new_page()
    missing = {
        "board.js",
        "stream.js",
        "plotly-scatter.min.js",
    }  # what is mounted, what that imports, and what it loads itself
    refused = []

    def refuse_once(route: Route) -> None:
        name = urlsplit(route.request.url).path.rpartition("/")[2]
        if name in missing - set(refused):
            refused.append(name)
            route.abort()
        else:
            route.continue_()

    page.route("**/assets/**", refuse_once)
    page.goto(f"{dashboard.link}&run={layout.run_id}")
    page.wait_for_selector(f"{LOSS}[data-points]", timeout=60_000)
    context.close()
    assert sorted(refused) == sorted(missing)


def test_all_charts_and_values_of_a_tab_share_one_stream(runs: Path, browser: Any, dashboard: ServedDashboard) -> None:
    layout = _made(runs)
    context = browser.new_context(viewport={"width": 1280, "height": 1100})
    page = context.new_page()
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if "/api/stream" in request.url else None)
    page.goto(f"{dashboard.link}&run={layout.run_id}")
    for chart in (LOSS, CPU):
        page.wait_for_selector(f"{chart}[data-connection='open'][data-points]", timeout=60_000)
    page.get_by_role("button", name="Rerun").click()
    expect(page.get_by_text("reruns: 2")).to_be_visible()
    context.close()
    assert 1 <= len(streams) <= 2, streams  # two if the charts appear a moment after the values
    assert "train" in streams[-1] and "validation" in streams[-1] and "system" in streams[-1]


@pytest.mark.thorough
def test_the_charts_continue_exactly_after_the_server_was_killed(
    tmp_path: Path, open_page: OpenPage, problems: list[str]
) -> None:
    layout = _made(tmp_path)
    script = Path(__file__).with_name("page.py")
    with ServedDashboard(tmp_path, script=script) as first:
        page = open_page(layout.run_id, served=first)
        with Feed(layout, first=101, interval_s=0.03) as feed:
            _wait_for_step(page, 120)
            first.kill()
            page.wait_for_selector(f"{LOSS}[data-connection='lost']")
            with ServedDashboard(tmp_path, script=script, port=first.port):
                page.wait_for_selector(f"{LOSS}[data-connection='open']", timeout=60_000)
                _wait_for_step(page, max(feed.logged))
                page.wait_for_function(f"() => document.querySelector('{PLOT}')._fullData.length > 0")
                drawn = _data(page, "train/loss")
    steps = [x for x, _ in drawn]
    assert steps == list(range(1, len(steps) + 1)), "no step is missing, and none appears twice"
    assert not [said for said in problems if not any(words in said for words in DEAD_SERVER)]


def test_a_hidden_tab_closes_its_stream_and_catches_up_when_it_is_shown(runs: Path, open_page: OpenPage) -> None:
    layout = _made(runs)
    page = open_page(layout.run_id)
    page.wait_for_selector(f"{LOSS}[data-connection='open']")
    hide = """(hidden) => {
      Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden })
      document.dispatchEvent(new Event('visibilitychange'))
    }"""
    page.evaluate(hide, True)
    log_rows(layout, [(step, {"loss": 1.0}) for step in range(101, 161)], attempt=2)
    page.wait_for_timeout(500)
    assert _last_step(page) == 100, "nothing is drawn while the tab is hidden"
    page.evaluate(hide, False)
    _wait_for_step(page, 160)  # even though no new row reveals the gap
    assert [x for x, _ in _data(page, "train/loss")] == list(range(1, 161))


@pytest.mark.thorough
def test_steps_that_are_trained_again_become_a_ghost_on_the_open_page(runs: Path, open_page: OpenPage) -> None:
    layout = _made(runs)
    page = open_page(layout.run_id)
    assert _data(page, "train/loss-ghosts") == []
    log_rows(layout, [(step, {"loss": 7.0}) for step in range(60, 81)], attempt=2)
    page.wait_for_function(
        f"""() => document.querySelector('{PLOT}')._fullData
            .find((one) => one.uid.endsWith('train_47loss-ghosts')).x.length >= 21"""
    )
    main = _data(page, "train/loss")
    assert [x for x, _ in main] == list(range(1, 101)), "each step once"
    assert [y for x, y in main if 60 <= x <= 80] == [7.0] * 21
    ghost = {x: y for x, y in _data(page, "train/loss-ghosts") if y is not None}
    assert ghost == {step: 3 / step for step in range(60, 81)}


def test_a_value_that_is_not_finite_is_a_gap(runs: Path, open_page: OpenPage) -> None:
    layout = make_run(runs)
    log_rows(layout, [(step, {"loss": math.nan if step == 5 else 1.0}) for step in range(1, 11)])
    page = open_page(layout.run_id)
    log_rows(layout, [(11, {"loss": math.inf}), (12, {"loss": 2.0})], attempt=2)
    _wait_for_step(page, 12)
    assert [x for x, y in _data(page, "train/loss") if y is None] == [5, 11]


@pytest.mark.thorough
def test_a_zoomed_range_is_read_again_in_full(runs: Path, open_page: OpenPage) -> None:
    layout = make_run(runs)
    log_rows(layout, [(step, {"loss": math.sin(step / 900) + (step % 7) / 50}) for step in range(1, 60_001)])
    page = open_page(layout.run_id)
    whole = _data(page, "train/loss")
    assert 1000 < len(whole) < 2000
    _zoom(page, 0.50, 0.52)
    page.wait_for_function(
        f"""() => {{
          const plot = document.querySelector('{PLOT}')
          const [low, high] = plot._fullLayout.xaxis.range
          const x = plot._fullData.find((one) => one.uid.endsWith('train_47loss')).x
          const inside = Array.from(x).filter((one) => one >= low && one <= high)
          return high - low < 2000 && inside.length >= Math.floor(high - low) - 1
        }}"""
    )
    low, high = _axis(page)
    fine = [(x, y) for x, y in _data(page, "train/loss") if low <= x <= high]
    assert [x for x, _ in fine] == list(range(int(fine[0][0]), int(fine[-1][0]) + 1)), "every step of the range"
    page.locator(f"{PLOT} .nsewdrag").first.dblclick()
    page.wait_for_function(f"() => document.querySelector('{PLOT}')._fullLayout.xaxis.range[1] > 50000")


@pytest.fixture(scope="module")
def ended(runs: Path, browser: Browser, dashboard: ServedDashboard) -> Iterator[Page]:
    """The page of a run that has ended, for tests that leave it as they found it."""
    context = new_context(browser)
    page = context.new_page()
    show_run(page, dashboard, _made(runs).run_id)
    yield page
    context.close()


def test_the_time_axis_uses_the_time_zone_of_the_browser(ended: Page) -> None:
    points = _data(ended, "system/cpu_percent", f"{CPU} .relight-chart-plot")
    assert len(points) == 40, "every row counts, whatever its step"
    # 1,000 s after the start of 1970, in a zone that was 3.5 h behind.
    assert points[0][0] == (1_000 - 3.5 * 3600) * 1000 or abs(points[0][0] / 1000 - 1_000) == 3.5 * 3600


def test_a_change_of_theme_recolors_the_chart_in_place(ended: Page) -> None:
    page = ended
    look = f"""() => {{
      const plot = document.querySelector('{PLOT}')
      const line = plot._fullData.find((one) => one.uid.endsWith('train_47loss'))
      return [line.line.color, plot._fullLayout.font.color, plot._fullLayout.hoverlabel.bgcolor]
    }}"""
    dark = page.evaluate(look)
    page.evaluate(f"() => {{ window.node = document.querySelector('{PLOT} .main-svg') }}")
    _zoom(page)
    page.wait_for_function(f"() => document.querySelector('{PLOT}')._fullLayout.xaxis.autorange === false")
    zoomed = _axis(page)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"(dark) => ({look})().every((color, i) => color !== dark[i])", arg=dark)
    assert _axis(page) == zoomed
    assert page.evaluate(f"() => window.node === document.querySelector('{PLOT} .main-svg')")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"(dark) => ({look})().every((color, i) => color === dark[i])", arg=dark)


def test_a_curve_can_be_hidden_from_the_keyboard_and_the_chart_has_a_name(ended: Page) -> None:
    page = ended
    expect(page.get_by_role("group", name="Loss: train 0.03000, validation 0.04000")).to_be_visible()
    button = page.locator(LOSS).get_by_role("button", name="validation")
    expect(button).to_have_attribute("aria-pressed", "true")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "false")
    page.wait_for_function(
        f"""() => document.querySelector('{PLOT}')._fullData.find((one) => one.uid.endsWith('validation_47loss'))
            .visible === false"""
    )
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
