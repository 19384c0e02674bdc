"""The figures and the status of a run tick in a real browser, without a reload."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from relight.runs.layout import RunLayout
from relight.runs.progress import Progress, ProgressFile
from relight.runs.record_file import write_record
from relight.runs.records import AttemptExit
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import begin_attempt, log_rows, make_run
from tests.patience import stretch

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def _value(field: str) -> str:
    return f"[data-field='{field}'] .value"


def _open(page: Page, dashboard: ServedDashboard, layout: RunLayout) -> None:
    page.goto(dashboard.link)
    page.goto(f"{dashboard.site}/run?id={layout.run_id}")
    page.evaluate("window.untouched = true")


def test_figures_tick_without_a_reload(runs: Path, dashboard: ServedDashboard, page: Page, problems: list[str]) -> None:
    layout = make_run(runs)
    begin_attempt(layout, 1, time_s=time.time())
    log_rows(layout, [(1, {"loss": 2.5})])
    progress = ProgressFile(layout.attempt(1).progress)
    progress.write(Progress(step=1, steps_total=4, started_s=time.time(), time_s=time.time(), phase="training"))
    _open(page, dashboard, layout)
    expect(page.locator(_value("step"))).to_have_text("1")
    expect(page.locator(_value("train/loss"))).to_have_text("2.500")
    progress.write(Progress(step=3, steps_total=4, started_s=time.time(), time_s=time.time(), phase="training"))
    log_rows(layout, [(3, {"loss": 0.25})], begin_s=2_000.0)
    expect(page.locator(_value("step"))).to_have_text("3", timeout=stretch(3) * 1000)
    expect(page.locator(_value("train/loss"))).to_have_text("0.2500", timeout=stretch(3) * 1000)
    expect(page.get_by_role("progressbar", name="Progress")).to_have_attribute("aria-valuenow", "75")
    assert page.evaluate("window.untouched")
    progress.close()
    assert problems == []


def test_a_run_that_ends_is_shown_within_two_seconds_without_a_reload(
    runs: Path, dashboard: ServedDashboard, page: Page
) -> None:
    layout = make_run(runs)
    begin_attempt(layout, 1, time_s=time.time())
    _open(page, dashboard, layout)
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    expect(page.locator(_value("work_at_risk_s"))).to_have_count(1)
    write_record(layout.attempt(1).exit, AttemptExit(attempt=1, time_s=time.time(), outcome="finished", exit_code=0))
    within = stretch(2) * 1000
    expect(page.get_by_text("Finished", exact=True)).to_be_visible(timeout=within)
    expect(page.get_by_role("button", name="Stop", exact=True)).to_have_count(0, timeout=within)
    expect(page.locator(_value("work_at_risk_s"))).to_have_count(0, timeout=within)
    expect(page).to_have_title("digits (finished) · Relight")
    assert page.evaluate("window.untouched")
