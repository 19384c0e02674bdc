"""The morning after: two runs were interrupted at night. One look says so, and one button continues both."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from relight.overview.summary import summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from tests.e2e.conftest import Dashboard, wait_until
from tests.e2e.screenshots import take_screenshots
from tests.e2e.trainings import count_attempts, launch_endless, wait_for_status, wait_for_step

pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]


def test_launch_compare_reboot_resume_all_and_download(start_page: Page, dashboard: Dashboard, tmp_path: Path) -> None:
    page = start_page
    page.get_by_role("link", name="Launch", exact=True).click()
    page.get_by_label("Epochs", exact=True).fill("3000")
    page.get_by_label("Name", exact=True).fill("night")
    page.get_by_role("button", name="Launch", exact=True).click()
    page.wait_for_url(re.compile(r"/run\?"))
    night = dashboard.only_layout()
    other = launch_endless(dashboard.runs)
    for layout in (night, other):
        wait_for_step(layout, 30)
        wait_until(lambda run=layout: summarize_run(run).durable_step, timeout_s=120, what="a checkpoint")

    page.get_by_role("link", name="Runs", exact=True).click()
    page.get_by_label("Select night").check()
    page.get_by_label("Select endless").check()
    expect(page.get_by_text("2 selected")).to_be_visible()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("heading", name="Compare 2 runs", level=1)).to_be_visible()
    expect(page.get_by_text("night", exact=True).first).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    take_screenshots(page, "compare")

    reached = {layout: _kill_everything(layout) for layout in (night, other)}
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page.get_by_text(re.compile("2 runs were interrupted"))).to_be_visible()
    expect(page).to_have_title(re.compile("✕ 2 crashed"))
    take_screenshots(page, "runs-morning")
    page.get_by_role("link", name="night", exact=True).first.click()
    card = page.get_by_role("region", name="What ended this run")
    expect(card.get_by_text("Its supervisor was killed", exact=True)).to_be_visible()
    expect(card.get_by_text(re.compile(r"A resume continues from step \d"))).to_be_visible()
    take_screenshots(page, "run-death-card")

    page.get_by_role("link", name="Runs", exact=True).click()
    page.get_by_role("button", name="Resume all", exact=True).click()
    for layout in (night, other):
        wait_until(lambda run=layout: count_attempts(run) == 2, timeout_s=120, what="a second attempt")
        wait_for_step(layout, reached[layout] + 1, attempt=2)
    expect(page.get_by_text(re.compile("were interrupted"))).to_be_hidden()

    page.get_by_role("link", name="night", exact=True).first.click()
    expect(page.get_by_text(re.compile("resume verified"))).to_be_visible()
    page.get_by_role("button", name="Export best weights", exact=True).click()
    download = page.get_by_role("button", name="Download", exact=True)
    expect(download).to_be_visible()
    shown = page.get_by_text(re.compile("^sha256 ")).get_attribute("title")
    with page.expect_download() as started:
        download.click()
    weights = tmp_path / "best.safetensors"
    started.value.save_as(weights)
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == shown
    page.get_by_role("button", name="Stop", exact=True).click()
    wait_for_status(night, "stopped")
    expect(page.get_by_text("Stopped", exact=True).first).to_be_visible()


def _kill_everything(layout: RunLayout) -> int:
    """Kill supervisor and trainer as a power cut does; return the step that the run had reached."""
    assert layout in list_layouts(layout.folder.parent)
    run = summarize_run(layout)
    for pid in (run.pids.supervisor, run.pids.trainer, run.pids.writer):
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    return wait_for_status(layout, "interrupted").step
