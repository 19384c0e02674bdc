"""Several fast presses of a button cause one action, with what was typed last."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import RunRecord
from tests.app.sample_runs import SampleRun, make_run
from tests.e2e.conftest import Dashboard, end_runs, open_browser, serve_dashboard, wait_until
from tests.e2e.trainings import START_S, count_attempts, launch_endless, wait_for_status, wait_for_step

pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.timeout(300)]

_PRESS_AT = "(button, at) => new Promise((done) => setTimeout(() => done(button.click()), at - Date.now()))"


@pytest.mark.parametrize(
    "pauses_ms",
    [pytest.param((0, 0, 0), id="at once"), pytest.param((30, 90, 200), id="in a row", marks=pytest.mark.thorough)],
)
def test_four_fast_clicks_on_launch_start_one_run(page: Page, dashboard: Dashboard, pauses_ms: tuple[int, ...]) -> None:
    page.goto(dashboard.address("/launch?task=digits"))
    button = page.get_by_role("button", name="Launch", exact=True)
    button.scroll_into_view_if_needed()
    box = button.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.click(x, y)
    for pause_ms in pauses_ms:
        page.wait_for_timeout(pause_ms)
        page.mouse.click(x, y)
    page.wait_for_url(re.compile(r"/run\?"))
    (layout,) = list_layouts(dashboard.runs)
    wait_for_step(layout, 1)
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()
    assert list_layouts(dashboard.runs) == [layout]
    assert count_attempts(layout) == 1


@pytest.mark.parametrize("times", [2, pytest.param(200, marks=[pytest.mark.thorough, pytest.mark.timeout(3_600)])])
def test_values_that_were_typed_just_before_the_press_are_launched(
    page: Page, dashboard: Dashboard, times: int
) -> None:
    page.goto(dashboard.address("/launch?task=digits"))
    for number in range(times):
        typed = {"Name": f"typed {number}", "Seed": str(7 + number), "Epochs": str(9_999 - number)}
        for label, text in typed.items():
            page.get_by_label(label, exact=True).fill(text)
        page.get_by_role("button", name="Launch", exact=True).evaluate("button => button.click()")
        page.wait_for_url(re.compile(r"/run\?"))
        (layout,) = list_layouts(dashboard.runs)
        record = read_record(layout.record, RunRecord)
        assert [record.name, str(record.config["seed"]), str(record.config["epochs"])] == list(typed.values())
        end_runs(dashboard.runs)
        shutil.rmtree(layout.folder)
        page.get_by_role("link", name="Launch", exact=True).click()


def test_a_press_that_meets_a_dead_server_counts_once_the_next_one_serves(browser: Browser, tmp_path: Path) -> None:
    with serve_dashboard(tmp_path, compiler=False) as first, open_browser(browser, may_fail=True) as context:
        page = context.new_page()
        page.goto(first.url)
        page.goto(first.address("/launch?task=digits"))
        page.get_by_label("Epochs", exact=True).fill("9999")
        first.process.kill()
        first.process.wait(10)
        button = page.get_by_role("button", name="Launch", exact=True)
        for _ in range(3):
            button.evaluate("button => button.click()")
        expect(page.locator("form[data-busy]")).to_be_visible()
        with serve_dashboard(tmp_path, port=first.port, compiler=False) as second:
            page.wait_for_url(re.compile(r"/run\?"))
            layout = second.only_layout()
            assert read_record(layout.record, RunRecord).config["epochs"] == 9999
            wait_for_step(layout, 1)
            assert second.only_layout() == layout
            assert count_attempts(layout) == 1


@pytest.mark.thorough
def test_a_second_launch_after_the_first_is_a_second_run(start_page: Page, dashboard: Dashboard) -> None:
    page = start_page
    for runs in (1, 2):
        page.get_by_role("link", name="Launch", exact=True).click()
        page.get_by_role("button", name="Launch", exact=True).click()
        page.wait_for_url(re.compile(r"/run\?"))
        assert len(list_layouts(dashboard.runs)) == runs


@pytest.mark.thorough
def test_two_tabs_that_press_resume_at_once_start_one_attempt(page: Page, dashboard: Dashboard) -> None:
    layout = launch_endless(dashboard.runs)
    wait_for_step(layout, 1)
    dashboard.relight("stop", layout.run_id)
    wait_for_status(layout, "stopped")
    other = page.context.new_page()
    for tab in (page, other):
        tab.goto(dashboard.address(f"/run?id={layout.run_id}"))
        expect(tab.get_by_role("button", name="Resume", exact=True)).to_be_visible()
    at = int(time.time() * 1000) + 1000
    resume = page.get_by_role("button", name="Resume", exact=True)
    # Playwright waits for one result at a time, so the first call only sets a timer.
    resume.evaluate("(button, at) => { setTimeout(() => button.click(), at - Date.now()) }", at)
    other.get_by_role("button", name="Resume", exact=True).evaluate(_PRESS_AT, at)
    for tab in (page, other):
        expect(tab.get_by_text("attempt 2", exact=True).first).to_be_visible()
        expect(tab.get_by_role("button", name="Stop", exact=True)).to_be_visible()
        expect(tab.get_by_role("alert")).to_have_count(0)
    wait_for_step(layout, 2, attempt=2)
    assert count_attempts(layout) == 2


@pytest.mark.thorough
def test_several_clicks_on_export_write_one_file_of_each_format(page: Page, dashboard: Dashboard) -> None:
    layout = make_run(dashboard.runs, SampleRun("done"))
    page.goto(dashboard.address(f"/run?id={layout.run_id}"))
    export = page.get_by_role("button", name="Export best weights", exact=True)
    expect(export).to_be_visible()
    for _ in range(4):
        export.evaluate("button => button.click()")
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_visible()
    expect(export).to_be_enabled()
    assert exported(layout) == ["best_model.safetensors"]
    page.get_by_role("button", name=".pth", exact=True).click()
    wait_for_files(layout, ["best_model.pth", "best_model.safetensors"])
    expect(page.get_by_text("best_model.pth", exact=True)).to_be_visible()
    expect(export).to_be_enabled()
    assert exported(layout) == ["best_model.pth", "best_model.safetensors"]


@pytest.mark.thorough
def test_a_press_that_another_press_follows_at_once_counts(page: Page, dashboard: Dashboard) -> None:
    layout = make_run(dashboard.runs, SampleRun("done"))
    page.goto(dashboard.address(f"/run?id={layout.run_id}"))
    group = page.get_by_role("group", name="Export", exact=True)
    expect(group.get_by_role("button")).to_have_count(2)
    group.evaluate("group => { for (const button of group.querySelectorAll('button')) button.click() }")
    wait_for_files(layout, ["best_model.pth", "best_model.safetensors"])
    expect(page.get_by_text("best_model.pth", exact=True)).to_be_visible()


@pytest.mark.thorough
@pytest.mark.parametrize(("address", "name"), [("/launch?task=digits", "Launch"), ("/branch", "Start branch")])
def test_no_button_moves_under_the_pointer_because_of_what_was_typed(
    page: Page, dashboard: Dashboard, address: str, name: str
) -> None:
    layout = make_run(dashboard.runs, SampleRun("done"))
    page.goto(dashboard.address(address.replace("/branch", f"/branch?id={layout.run_id}&step=1200")))
    button = page.get_by_role("button", name=name, exact=True)
    expect(button).to_be_visible()
    before = button.bounding_box()
    field = page.get_by_label("Epochs", exact=True)
    for value in ("0", "9999"):
        field.fill(value)
        field.press("Tab")
        expect(page.get_by_text(f"epochs={value}")).to_be_visible()
        assert button.bounding_box() == before
    field.fill("0")
    button.click()
    expect(page.get_by_role("alert").get_by_text("out of bounds")).to_be_visible()
    assert button.bounding_box() == before


def exported(layout: RunLayout) -> list[str]:
    """List the exported files, without their cards and without a file that is still being written."""
    found = layout.exports.iterdir() if layout.exports.is_dir() else ()
    return sorted(path.name for path in found if path.suffix in (".pth", ".safetensors"))


def wait_for_files(layout: RunLayout, names: list[str]) -> None:
    """Wait until exactly these files are exported: a .pth file is written by a process that has to load torch."""
    wait_until(lambda: exported(layout) == names, timeout_s=START_S, what=f"{names} are exported")
