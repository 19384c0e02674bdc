"""Live values in a real browser tick without a rerun, and request one when the rest of the page must change."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from relight.runs.progress import Progress, ProgressFile
from relight.runs.record_file import write_record
from relight.runs.records import AttemptExit
from tests.app.server.metric_runs import begin_attempt, log_rows, make_run

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("live")]

OpenPage = Callable[..., Page]


def _value(field: str) -> str:
    return f".relight-values [data-field='{field}'] .relight-value"


def test_values_tick_without_a_rerun(runs: Path, open_page: OpenPage, problems: list[str]) -> None:
    layout = make_run(runs)
    begin_attempt(layout, 1, time_s=time.time())
    log_rows(layout, [(1, {"loss": 2.5})])
    progress = ProgressFile(layout.attempt(1).progress)
    progress.write(Progress(step=1, steps_total=4, started_s=time.time(), time_s=time.time(), phase="training"))
    page = open_page(layout.run_id)
    expect(page.locator(_value("status"))).to_have_text("running")
    expect(page.locator(_value("step"))).to_have_text("1")
    expect(page.locator(_value("train/loss"))).to_have_text("2.500")
    progress.write(Progress(step=3, steps_total=4, started_s=time.time(), time_s=time.time(), phase="training"))
    log_rows(layout, [(3, {"loss": 0.25})], begin_s=2_000.0)
    expect(page.locator(_value("step"))).to_have_text("3", timeout=3_000)
    expect(page.locator(_value("train/loss"))).to_have_text("0.2500", timeout=3_000)
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "75")
    expect(page.get_by_text("reruns: 1", exact=True)).to_be_visible()
    progress.close()
    assert problems == []


def test_a_run_that_ends_is_shown_and_the_page_reruns_once_within_two_seconds(runs: Path, open_page: OpenPage) -> None:
    layout = make_run(runs)
    begin_attempt(layout, 1, time_s=time.time())
    page = open_page(layout.run_id)
    expect(page.locator(_value("status"))).to_have_text("running")
    write_record(layout.attempt(1).exit, AttemptExit(attempt=1, time_s=time.time(), outcome="finished", exit_code=0))
    expect(page.locator(_value("status"))).to_have_text("finished", timeout=2_000)
    expect(page.get_by_text("reruns: 2", exact=True)).to_be_visible(timeout=2_000)
    page.get_by_role("button", name="Rerun").click()
    expect(page.get_by_text("reruns: 3", exact=True)).to_be_visible()
