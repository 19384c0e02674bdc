"""The chart board in a real browser: which charts it draws, how a person sets them, and the run's story on them."""

from __future__ import annotations

import json
import math
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from relight.runs.layout import RunLayout
from relight.runs.progress import Progress, ProgressFile
from relight.runs.records import Parent
from tests.app.live.conftest import new_context, show_run
from tests.app.sample_runs import SampleRun
from tests.app.sample_runs import make_run as make_sample
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import begin_attempt, log_rows, make_run
from tests.e2e.accessibility import find_violations, tab_to
from tests.patience import stretch

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("live")]

OpenPage = Callable[..., Page]
BOARD = ".relight-board"
LOSS = ".relight-chart[data-key=loss]"
_TRACES = """([chart, end]) => {
  const plot = document.querySelector(`${chart} .relight-chart-plot`)
  const trace = (plot?._fullData ?? []).find((one) => one.uid.endsWith(end))
  return trace ? Array.from(trace.x, (x, i) => [x, Number.isFinite(trace.y[i]) ? trace.y[i] : null]) : null
}"""

_SPREAD = "Math.abs(Math.max(...ys) - Math.min(...ys) - EXPECTED) < 1e-3"


def _line(page: Page, end: str = "loss", chart: str = LOSS) -> list[list[Any]] | None:
    """Return the points of the trace whose id ends so: "loss", "loss-smoothed", "loss-ghosts", "loss-origin"."""
    points: list[list[Any]] | None = page.evaluate(_TRACES, [chart, end])
    return points


def _wait_for_line(page: Page, condition: str, *, end: str = "loss", chart: str = LOSS) -> None:
    """Wait until a JavaScript condition on `line`, the points of that trace, holds."""
    page.wait_for_function(
        f"(arg) => {{ const line = ({_TRACES})(arg); return line && ({condition}) }}", arg=[chart, end]
    )


def _axis(page: Page, name: str, chart: str = LOSS) -> dict[str, Any]:
    axis: dict[str, Any] = page.evaluate(
        """([chart, name]) => {
          const { type, range } = document.querySelector(`${chart} .relight-chart-plot`)._fullLayout[name]
          return { type, range }
        }""",
        [chart, name],
    )
    return axis


@pytest.fixture(scope="module")
def crashed(runs: Path) -> RunLayout:
    """A run of two attempts that crashed twice, with five checkpoints, one of them pinned, one of them the best."""
    sample = SampleRun("crashed twice", status="crashed", step=600, attempts=2, checkpoints=5, reason="Out of memory.")
    return make_sample(runs, sample)


@pytest.fixture(scope="module")
def shown(crashed: RunLayout, browser: Browser, dashboard: ServedDashboard) -> Iterator[Page]:
    """The page of `crashed`, for tests that leave it as they found it."""
    context = new_context(browser)
    page = context.new_page()
    show_run(page, dashboard, crashed.run_id)
    yield page
    context.close()


def test_a_chart_appears_with_its_first_value_and_no_rerun(
    runs: Path, open_page: OpenPage, problems: list[str]
) -> None:
    layout = make_run(runs)
    begin_attempt(layout, 1, time_s=time.time())
    page = open_page(layout.run_id)
    expect(page.locator(BOARD)).to_contain_text("Waiting for the first values.")
    log_rows(layout, [(1, {"loss": 1.0})])
    _wait_for_line(page, "line.length === 1")
    expect(page.locator(BOARD)).not_to_contain_text("Waiting for the first values.")
    log_rows(layout, [(1, {"accuracy": 0.5})], stream="validation")
    expect(page.locator(".relight-chart-title", has_text="Accuracy")).to_be_visible()
    expect(page.get_by_text("reruns: 1", exact=True)).to_be_visible()
    assert problems == []


def test_crashes_resumes_and_checkpoints_are_on_the_curve(shown: Page) -> None:
    page, chart = shown, shown.locator(LOSS)
    signs = [sign.get_attribute("aria-label") or "" for sign in chart.locator(".relight-sign").all()]
    assert sorted(signs) == [
        "Attempt 1 crashed at step 300: Its trainer was killed (SIGKILL).",
        "Attempt 2 continued from step 260",
        "Attempt 2 crashed at step 600: Out of memory.",
    ]
    dots = chart.locator(".relight-dot")
    expect(dots).to_have_count(5)
    assert (dots.first.get_attribute("aria-label") or "").endswith("(pinned)")
    expect(chart.locator(".relight-dot.best")).to_have_count(1)
    expect(chart.locator(".relight-tail")).to_be_visible()
    tab_to(page, dots.last)
    page.keyboard.press("ArrowLeft")
    expect(dots.nth(3)).to_be_focused()
    page.keyboard.press("Enter")
    menu = page.get_by_role("menu")
    expect(menu.get_by_role("menuitem")).to_have_text(
        ["Resume from here", "Branch from here", "Export weights", "Pin (never delete)"]
    )
    page.keyboard.press("ArrowDown")
    expect(menu.get_by_role("menuitem").nth(1)).to_be_focused()
    page.keyboard.press("Escape")
    expect(menu).to_have_count(0)
    expect(dots.nth(3)).to_be_focused()


def test_the_board_has_no_accessibility_problems(shown: Page) -> None:
    shown.locator(LOSS).get_by_role("button", name="More for Loss").click()
    expect(shown.get_by_role("menu")).to_be_visible()
    found = [one for one in find_violations(shown) if "relight" in one]
    shown.keyboard.press("Escape")
    assert found == []


def _set_up(page: Page) -> None:
    """Choose a smoothing, a logarithmic axis, epochs, a pinned chart and a search."""
    page.locator(".relight-toolbar input[type=range]").fill("0.5")
    page.get_by_role("button", name="Log y").click()
    page.get_by_label("x axis").select_option("epoch")
    page.locator(".relight-chart[data-key=lr]").get_by_role("button", name="More for").click()
    page.get_by_role("menuitem", name="Pin to the top").click()
    expect(page.locator(".relight-group").first).to_contain_text("Pinned")
    page.get_by_label("Search charts").fill("learning train/lr")
    expect(page.locator(".relight-chart")).to_have_count(1)
    page.wait_for_function("() => location.search.includes('pin=lr') && location.search.includes('charts=learning')")


def _check_set_up(page: Page, *, search: str) -> None:
    chart = ".relight-chart[data-key=lr]"
    page.wait_for_selector(f"{chart}[data-points]")
    assert _axis(page, "yaxis", chart)["type"] == "log" and _axis(page, "xaxis", chart)["range"][1] < 10
    expect(page.get_by_label("Search charts")).to_have_value(search)
    expect(page.locator(".relight-toolbar output")).to_have_text("0.50")
    expect(page.locator(".relight-group").first).to_contain_text("Pinned")


@pytest.mark.thorough
def test_settings_are_in_the_address(crashed: RunLayout, open_page: OpenPage, problems: list[str]) -> None:
    page = open_page(crashed.run_id)
    _set_up(page)
    query = parse_qs(urlsplit(page.url).query)
    assert query["run"] == [crashed.run_id], "the rest of the address stays"
    assert {name: query[name] for name in ("smoothing", "logy", "xaxis", "pin")} == {
        "smoothing": ["0.5"], "logy": ["1"], "xaxis": ["epoch"], "pin": ["lr"],
    }  # fmt: skip
    link = page.url
    page.get_by_role("button", name="Rerun").click()
    expect(page.get_by_text("reruns: 2", exact=True)).to_be_visible()
    assert page.url == link, "a rerun of the page keeps them"
    assert problems == []


@pytest.mark.thorough
def test_a_link_restores_the_settings_and_the_browser_remembers_them(
    crashed: RunLayout, open_page: OpenPage, browser: Browser, dashboard: ServedDashboard, problems: list[str]
) -> None:
    page = open_page(crashed.run_id)
    _set_up(page)
    page.reload()
    _check_set_up(page, search="learning train/lr")
    other = new_context(browser).new_page()
    other.goto(dashboard.link)
    other.goto(page.url)
    _check_set_up(other, search="learning train/lr")
    other.context.close()
    page.goto(f"{dashboard.site}/?run={crashed.run_id}")
    _check_set_up(page, search="")
    page.get_by_role("button", name="Reset", exact=True).click()
    expect(page.get_by_label("x axis")).to_have_value("step")
    assert problems == []


@pytest.mark.thorough
def test_smoothing_keeps_the_raw_values_and_the_number_of_the_legend(runs: Path, open_page: OpenPage) -> None:
    layout = make_run(runs)
    log_rows(layout, [(step, {"loss": float(step % 2)}) for step in range(1, 400)] + [(400, {"loss": 7.0})])
    page = open_page(layout.run_id)
    slider = page.locator(".relight-toolbar input[type=range]")
    number = page.locator(f"{LOSS} .relight-chart-legend b")
    for weight in (0.5, 0.9):
        slider.fill(str(weight))
        left = (1 - weight) / (1 + weight)  # of the height of the zigzag, as in TensorBoard
        condition = f"{{ const ys = line.slice(200, 390).map(([, y]) => y); return {_SPREAD} }}"
        _wait_for_line(page, f"(() => {condition})()".replace("EXPECTED", str(left)), end="loss-smoothed")
        assert [y for _, y in _line(page) or []][-1] == 7.0
        expect(number).to_have_text("7")
    slider.fill("0")
    expect(page.locator(".relight-toolbar output")).to_have_text("off")
    page.wait_for_function(f"arg => !({_TRACES})(arg)", arg=[LOSS, "loss-smoothed"])
    log_rows(layout, [(401, {"loss": 3.0})], attempt=2)
    expect(number).to_have_text("3")


@pytest.mark.thorough
def test_the_x_axis_shows_steps_epochs_or_times(crashed: RunLayout, open_page: OpenPage, problems: list[str]) -> None:
    page = open_page(crashed.run_id)
    select = page.get_by_label("x axis")
    steps = _line(page) or []
    assert (steps[0][0], steps[-1][0]) == (1, 600)
    select.select_option("epoch")
    _wait_for_line(page, "line[line.length - 1][0] === 6")
    select.select_option("relative")
    _wait_for_line(page, "line[0][0] >= 0 && line[line.length - 1][0] < 200 && line.some(([, y]) => y === null)")
    select.select_option("wall")
    _wait_for_line(page, "line[0][0] > 1e12 && line.some(([, y]) => y === null)")
    ghost = _line(page, "loss-ghosts") or []
    assert len([y for _, y in ghost if y is not None]) == 40, "the steps that were trained again"
    gap = _line(page, "percent", ".relight-chart[data-key='system//cpu']") or []
    assert [y for _, y in gap].count(None) == 1, "nothing ran between the attempts"
    machine = _axis(page, "xaxis", ".relight-chart[data-key='system//cpu']")
    assert machine == _axis(page, "xaxis", ".relight-chart[data-key='system//memory']")
    select.select_option("step")
    page.get_by_role("button", name="Log x").click()
    page.wait_for_function(
        f"() => document.querySelector('{LOSS} .relight-chart-plot')._fullLayout.xaxis.type === 'log'"
    )
    assert problems == []


@pytest.mark.thorough
def test_outliers_can_be_ignored(runs: Path, open_page: OpenPage) -> None:
    layout = make_run(runs)
    log_rows(layout, [(step, {"loss": 1e6 if step == 50 else 1 + step / 100}) for step in range(1, 101)])
    page = open_page(layout.run_id)
    assert _axis(page, "yaxis")["range"][1] > 1e6
    page.get_by_role("button", name="Ignore outliers").click()
    page.wait_for_function(f"() => document.querySelector('{LOSS} .relight-chart-plot')._fullLayout.yaxis.range[1] < 3")
    page.get_by_role("button", name="Ignore outliers").click()
    page.wait_for_function(
        f"() => document.querySelector('{LOSS} .relight-chart-plot')._fullLayout.yaxis.range[1] > 1e6"
    )


@pytest.mark.thorough
def test_while_steps_are_trained_again_now_moves_and_the_rest_is_faint(runs: Path, open_page: OpenPage) -> None:
    layout = make_run(runs)
    log_rows(layout, [(step, {"loss": 3.0}) for step in range(1, 101)])
    begin_attempt(layout, 2, from_step=40, time_s=time.time())
    progress = ProgressFile(layout.attempt(2).progress)

    def train(first: int, last: int) -> None:
        log_rows(layout, [(step, {"loss": 2.0}) for step in range(first, last + 1)], attempt=2, begin_s=2_000)
        progress.write(Progress(step=last, steps_total=200, started_s=1.0, time_s=time.time(), phase="training"))

    train(41, 60)
    page = open_page(layout.run_id)
    expect(page.locator(f"{LOSS} .relight-now")).to_be_visible()
    left = page.locator(f"{LOSS} .relight-now").evaluate("one => parseFloat(one.style.left)")
    assert [x for x, _ in _line(page) or []] == list(range(1, 61))
    expect(page.locator(f"{LOSS} .relight-chart-legend b")).to_have_text("2")  # as the tile says, not the ghost's end
    assert {x for x, y in _line(page, "loss-ghosts") or [] if y is not None} >= set(range(41, 101))
    train(61, 90)
    _wait_for_line(page, "line.length === 90")
    assert page.locator(f"{LOSS} .relight-now").evaluate("one => parseFloat(one.style.left)") > left
    train(91, 120)
    _wait_for_line(page, "line.length === 120")
    expect(page.locator(f"{LOSS} .relight-now")).to_have_count(0)
    progress.close()


@pytest.mark.thorough
def test_a_branch_shows_the_curve_of_its_parent(runs: Path, open_page: OpenPage) -> None:
    parent = make_sample(runs, SampleRun("the <b>parent</b>", step=500))
    origin = Parent(run=parent.run_id, step=300, sequence=1)
    child = make_sample(runs, SampleRun("child", status="crashed", step=400, seed=7, parent=origin))
    page = open_page(child.run_id)
    _wait_for_line(page, "line.length > 400 && line[line.length - 1][0] === 500", end="train_47loss-origin")
    expect(page.locator(f"{LOSS} .relight-origin")).to_have_text("dotted: the <b>parent</b>")


@pytest.mark.thorough
def test_a_chart_is_saved_with_its_title_its_legend_and_the_name_of_the_run(
    crashed: RunLayout, open_page: OpenPage, problems: list[str]
) -> None:
    page = open_page(crashed.run_id)
    for kind in ("SVG", "PNG"):
        page.locator(LOSS).get_by_role("button", name="More for Loss").click()
        with page.expect_download() as download:
            page.get_by_role("menuitem", name=f"Save as {kind}").click()
        content = Path(download.value.path()).read_bytes()
        assert download.value.suggested_filename == f"crashed-twice-Loss.{kind.lower()}"
        if kind == "PNG":
            assert content.startswith(b"\x89PNG") and len(content) > 20_000
        else:
            text = " ".join(ET.fromstring(content).itertext())
            assert all(word in text for word in ("Loss", "crashed twice", "train", "validation"))
    assert problems == []


@pytest.mark.thorough
def test_a_chart_fills_the_screen_and_goes_back_to_its_place(crashed: RunLayout, open_page: OpenPage) -> None:
    page = open_page(crashed.run_id)
    page.locator(LOSS).get_by_role("button", name="More for Loss").click()
    page.get_by_role("menuitem", name="Full screen").click()
    page.wait_for_function(f"() => document.querySelector('dialog {LOSS} .main-svg')?.clientHeight > 800")
    assert [one for one in find_violations(page) if "relight" in one] == []
    page.keyboard.press("Escape")
    page.wait_for_function(f"() => document.querySelector('.relight-leading {LOSS} .main-svg')?.clientHeight < 400")
    expect(page.locator(LOSS).get_by_role("button", name="More for Loss")).to_be_focused()


@pytest.mark.thorough
def test_the_menu_of_a_checkpoint_asks_the_page_to_act(crashed: RunLayout, open_page: OpenPage) -> None:
    page = open_page(crashed.run_id)
    page.evaluate(
        """() => {
          window.asked = []
          document.addEventListener('relight-action', ({ detail }) => window.asked.push(detail))
        }"""
    )
    best = page.locator(f"{LOSS} .relight-dot.best")
    step = int(best.get_attribute("data-step") or 0)
    for item in ("Resume from here", "Export weights", "Pin (never delete)"):
        best.click()
        page.get_by_role("menuitem", name=item).click()
    run = crashed.run_id
    assert page.evaluate("() => window.asked") == [
        {"name": "resume", "payload": {"run": run, "step": step, "attempt": 2}},
        {"name": "export", "payload": {"run": run, "which": step}},
        {"name": "pin", "payload": {"run": run, "step": step, "on": True}},
    ]
    best.click()
    link = page.get_by_role("menuitem", name="Branch from here").get_attribute("href")
    assert link == f"/branch?id={run}&step={step}"


@pytest.mark.thorough
def test_metrics_with_odd_names_have_charts_that_work(runs: Path, open_page: OpenPage, problems: list[str]) -> None:
    layout = make_run(runs)
    odd = [
        "acc__top5",
        "a__",
        "**bold** _x_",
        "$\\alpha_1$",
        "<b>x",
        "&amp;",
        "%{y}",
        "x" * 200,
        "日本",
        'a"b',
        "[x](y)",
    ]
    log_rows(layout, [(step, dict.fromkeys(odd, step / 10)) for step in range(1, 60)])
    page = open_page(layout.run_id)
    for name in odd:
        chart = f".relight-chart[data-key={json.dumps(name, ensure_ascii=False)}]"
        page.locator(chart).scroll_into_view_if_needed()
        page.wait_for_selector(f"{chart}[data-points='59']")
        assert len(_line(page, "", chart) or []) in (0, 59)
    titles = page.locator(".relight-chart-title").all_text_contents()
    assert set(odd) - {"acc__top5"} <= set(titles) and "acc__top5" in titles
    plot = page.locator(".relight-chart[data-key='<b>x'] .nsewdrag").bounding_box()
    assert plot is not None
    page.mouse.move(plot["x"] + plot["width"] / 2, plot["y"] + plot["height"] / 2)
    page.wait_for_selector(".hoverlayer .legend")
    assert problems == []


@pytest.mark.thorough
def test_a_chart_of_a_hundred_streams_has_a_hundred_colors(
    runs: Path, open_page: OpenPage, problems: list[str]
) -> None:
    layout = make_run(runs)
    for part in range(100):
        log_rows(layout, [(step, {"loss": float(part + step)}) for step in range(1, 11)], stream=f"part{part}")
    page = open_page(layout.run_id)
    colors = page.locator(f"{LOSS} .relight-chart-legend i").evaluate_all(
        "all => all.map((one) => one.style.background)"
    )
    assert len(set(colors)) == 100
    assert [len(_line(page, f"part{part}_47loss") or []) for part in range(100)] == [10] * 100
    assert problems == []


@pytest.mark.thorough
def test_a_value_that_is_not_finite_is_what_the_legend_says(runs: Path, open_page: OpenPage) -> None:
    layout = make_run(runs)
    log_rows(layout, [(1, {"loss": 1.0}), (2, {"loss": math.nan})])
    page = open_page(layout.run_id)
    expect(page.locator(f"{LOSS} .relight-chart-legend b")).to_have_text("not finite")


@pytest.mark.thorough
def test_two_thousand_metrics_open_as_fast_as_a_few(
    runs: Path, browser: Browser, dashboard: ServedDashboard, problems: list[str]
) -> None:
    layout = make_run(runs)
    names = [f"layer{number}/norm{part}" for number in range(100) for part in range(20)]
    log_rows(layout, [(step, {name: float(step) for name in names}) for step in range(1, 101)])
    context = new_context(browser)
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(dashboard.link)  # loads what every page needs
    page.goto(f"{dashboard.site}/?run={layout.run_id}")
    page.wait_for_selector(".relight-chart[data-points]", timeout=60_000)
    took: list[float] = []
    for _ in range(3):
        page.goto("about:blank")
        page.goto(f"{dashboard.site}/?run={layout.run_id}", wait_until="commit")
        page.wait_for_selector(BOARD, state="attached")
        took.append(
            page.evaluate(
                """() => new Promise((done) => {
                  const look = () => document.querySelector('.relight-chart[data-points]')
                    ? done(performance.now()) : requestAnimationFrame(look)
                  look()
                })"""
            )
        )
    print(f"2,000 metrics: first chart {[round(one) for one in took]} ms after the page was asked for")
    assert min(took) < stretch(2_000), took
    assert page.locator(".relight-chart").count() <= 40, "charts out of sight are not built"
    expect(page.locator(".relight-group")).to_have_count(100)
    page.get_by_label("Search charts").fill("layer77/ norm13")
    expect(page.locator(".relight-chart")).to_have_count(1)
    page.wait_for_selector(".relight-chart[data-key='layer77/norm13'][data-points='100']")
    assert problems == []
    context.close()
