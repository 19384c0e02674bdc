"""The Compare page in a real browser: what it shows of several runs, and the link that restores the view."""

from __future__ import annotations

import csv
import io
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, write_record
from relight.runs.records import RunRecord
from tests.app.live.conftest import new_context
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import log_rows, make_run
from tests.e2e.accessibility import find_violations
from tests.patience import stretch

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("live")]

COMPARE = ".relight-compare[data-drawn]"
OpenCompare = Callable[..., Page]


def make_sweep(runs: Path, count: int, *, name: str = "run") -> list[RunLayout]:
    """Make runs that differ in the options `lr` and `note`, the later ones with a lower loss."""
    made = []
    for number in range(1, count + 1):
        layout = make_run(runs, f"{name}-{number}")
        record = read_record(layout.record, RunRecord)
        config: dict[str, Any] = {"lr": 10.0**-number, "note": f'=a"{number % 2}', "seed": 1}
        write_record(layout.record, msgspec.structs.replace(record, config=config))
        noise = random.Random(number)
        log_rows(
            layout, [(step, {"loss": 9 / step + 1 / number + noise.random() / 9, "size": 1.0}) for step in range(1, 81)]
        )
        log_rows(layout, [(step, {"accuracy": number / 10}) for step in range(10, 81, 10)], stream="validation")
        made.append(layout)
    return made


@pytest.fixture(scope="module")
def sweep(runs: Path) -> list[RunLayout]:
    return make_sweep(runs, 3)


@pytest.fixture
def context(browser: Browser, dashboard: ServedDashboard, problems: list[str]) -> Iterator[BrowserContext]:
    """A browser that has the cookie and reports its problems."""
    context = new_context(browser)
    context.on("weberror", lambda error: problems.append(str(error.error)))
    context.request.get(dashboard.link, max_redirects=0)
    yield context
    context.close()


@pytest.fixture
def open_compare(context: BrowserContext, dashboard: ServedDashboard) -> OpenCompare:
    """Open the comparison of runs."""

    def open_runs(layouts: list[RunLayout], query: str = "") -> Page:
        page = context.new_page()
        page.goto(f"{dashboard.site}/?ids={','.join(layout.run_id for layout in layouts)}{query}")
        page.wait_for_selector(COMPARE, timeout=60_000)
        page.wait_for_selector(f"{COMPARE} .scatterlayer .trace", state="attached")
        return page

    return open_runs


def _results(page: Page) -> list[list[str]]:
    rows = page.locator("[data-role=results] tbody tr").all()
    return [[cell.inner_text() for cell in row.locator("th, td").all()] for row in rows]


def test_runs_are_shown_side_by_side(sweep: list[RunLayout], open_compare: OpenCompare, problems: list[str]) -> None:
    page = open_compare(sweep)
    expect(page.get_by_role("heading", name="Compare 3 runs")).to_be_visible()
    rows = _results(page)
    assert [row[0] for row in rows] == ["run-1", "run-2", "run-3"]
    assert [row[5] for row in rows] == ["10.00 %at step 10", "20.00 %at step 10", "30.00 %at step 10"]
    differing = page.locator("[data-role=options] tbody th").all_inner_texts()
    assert differing == ["lr", "note"]
    expect(page.locator("[data-role=options]")).to_contain_text("1 option is the same in all runs.")
    drawn = page.evaluate(
        """() => [...document.querySelectorAll('[data-role=charts] .relight-chart-plot')].map((plot) =>
          plot._fullData.filter((trace) => trace.visible === true).length)"""
    )
    assert drawn == [3, 3]
    expect(page.locator(".relight-parallel-line")).to_have_count(3)
    assert [one for one in find_violations(page) if "relight" in one] == []
    assert problems == []


@pytest.mark.thorough
def test_a_link_restores_the_view(
    sweep: list[RunLayout], open_compare: OpenCompare, context: BrowserContext, problems: list[str]
) -> None:
    page = open_compare(sweep)
    page.get_by_label("Add metric").select_option("train/size")
    expect(page.locator("[data-role=charts] .relight-chart")).to_have_count(3)
    page.get_by_role("button", name="run-2", exact=True).click()
    page.get_by_role("button", name="Log y").click()
    page.get_by_role("button", name="Final train/loss").click()
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("Final train/loss")
    assert [row[0] for row in _results(page)] == ["run-3", "run-2", "run-1"]
    page.wait_for_function("() => location.search.includes('logy=1')")
    other = context.new_page()
    other.goto(page.url)
    other.wait_for_selector(COMPARE)
    expect(other.locator("[data-role=charts] .relight-chart")).to_have_count(3)
    expect(other.get_by_role("button", name="run-2", exact=True)).to_have_attribute("aria-pressed", "false")
    deadline = time.monotonic() + stretch(30)
    while _results(other) != _results(page):  # a queued run is interrupted after a while: each page says so on its own
        assert time.monotonic() < deadline
        page.wait_for_timeout(100)
    other.get_by_role("button", name="Leave run-1 out").click()
    expect(other.get_by_role("heading", name="Compare 2 runs")).to_be_visible()
    assert "run-1" not in other.url
    assert problems == []


@pytest.mark.thorough
def test_the_table_is_saved_as_csv(sweep: list[RunLayout], open_compare: OpenCompare) -> None:
    page = open_compare(sweep)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [row["run"] for row in rows] == [layout.run_id for layout in sweep]
    assert [float(row["lr"]) for row in rows] == [0.1, 0.01, 0.001]
    assert rows[0]["note"] == "'=a\"1", "a spreadsheet must not take a text for a formula"
    assert float(rows[2]["final train/loss"]) < float(rows[0]["final train/loss"])


@pytest.mark.thorough
def test_fifty_runs_can_be_compared(runs: Path, open_compare: OpenCompare, problems: list[str]) -> None:
    page = open_compare(make_sweep(runs, 50, name="many"))
    expect(page.locator(".relight-chip")).to_have_count(50)
    colors = page.locator(".relight-chip i").evaluate_all("all => all.map((one) => one.style.background)")
    assert len(set(colors)) == 50
    assert problems == []


@pytest.mark.thorough
def test_a_zoomed_range_is_read_in_full(runs: Path, open_compare: OpenCompare, problems: list[str]) -> None:
    layout = make_run(runs, "long")
    log_rows(layout, [(step, {"loss": 1 / step}) for step in range(1, 20_001)])
    page = open_compare([layout])
    plot = page.locator("[data-role=charts] .relight-chart-plot .nsewdrag").bounding_box()
    assert plot is not None
    middle = plot["y"] + plot["height"] / 2
    page.mouse.move(plot["x"] + plot["width"] * 0.5, middle)
    page.mouse.down()
    page.mouse.move(plot["x"] + plot["width"] * 0.51, middle, steps=5)
    page.mouse.move(plot["x"] + plot["width"] * 0.52, middle, steps=5)
    page.mouse.up()
    page.wait_for_function(
        """() => {
          const plot = document.querySelector('[data-role=charts] .relight-chart-plot')
          const [low, high] = plot._fullLayout.xaxis.range
          const inside = Array.from(plot._fullData[0].x).filter((x) => x >= low && x <= high)
          return high - low < 1000 && inside.length >= Math.floor(high - low) - 1
        }"""
    )
    assert problems == []


@pytest.mark.thorough
def test_a_run_that_trains_grows_on_the_page(runs: Path, open_compare: OpenCompare) -> None:
    layouts = make_sweep(runs, 2, name="live")
    page = open_compare(layouts)
    log_rows(layouts[0], [(step, {"loss": 0.5}) for step in range(81, 101)], attempt=2)
    page.wait_for_function(
        """() => [...document.querySelectorAll('[data-role=charts] .relight-chart-plot')].some((plot) =>
          plot._fullData.some((trace) => trace.x.at(-1) === 100))"""
    )
