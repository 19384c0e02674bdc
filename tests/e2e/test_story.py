"""The main story in a real browser: launch, watch, kill, see the crash, resume, finish, download the weights."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect
from safetensors.torch import load_file

from tests.e2e.conftest import Dashboard, serve_dashboard, wait_until
from tests.e2e.screenshots import take_screenshots, takes_screenshots
from tests.patience import stretch

# Thorough, because test_morning.py and test_stop_and_resume.py do all of this too, in other ways.
pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.thorough, pytest.mark.timeout(600)]

SHOWN_DEAD_S = 2.0
SLACK_S = 1.0
"""Timeout for the browser and for this test's polling, on a machine with two busy cores."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """A separate dashboard whose trainings are exactly like real ones."""
    with serve_dashboard(tmp_path_factory.mktemp("story"), compiler=True) as dashboard:
        yield dashboard


def test_launch_kill_resume_and_download_the_best_weights(
    start_page: Page, dashboard: Dashboard, tmp_path: Path
) -> None:
    page = start_page
    expect(page.get_by_role("heading", name="Runs", level=1)).to_be_visible()
    take_screenshots(page, "runs-empty")

    launch_digits(page, epochs=100 if takes_screenshots() else 30)
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()
    run = dashboard.only_run()
    wait_until(lambda: (dashboard.show(run)["durable_step"] or 0) > 0, timeout_s=120, what="a first checkpoint")
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    take_screenshots(page, "run-running")

    trainer = dashboard.show(run)["pids"]["trainer"]
    killed_at = time.monotonic()
    os.kill(trainer, signal.SIGKILL)
    expect(page.get_by_text("Crashed", exact=True).first).to_be_visible(timeout=stretch(SHOWN_DEAD_S + SLACK_S) * 1000)
    assert time.monotonic() - killed_at < stretch(SHOWN_DEAD_S + SLACK_S)
    expect(page.get_by_text(re.compile("SIGKILL")).first).to_be_visible()
    take_screenshots(page, "run-crashed")
    lost = dashboard.show(run)
    assert lost["status"] == "crashed"

    page.get_by_role("button", name="Resume", exact=True).click()
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()
    expect(page.get_by_text("Finished", exact=True).first).to_be_visible(timeout=240_000)
    shown = dashboard.show(run)
    assert (shown["status"], shown["attempt"], shown["step"]) == ("finished", 2, shown["steps_total"])
    assert shown["best"]["value"] >= 0.97

    page.get_by_role("button", name="Export best weights", exact=True).click()
    download_button = page.get_by_role("button", name="Download", exact=True)
    expect(download_button).to_be_visible(timeout=60_000)
    with page.expect_download() as download:
        download_button.click()
    weights = tmp_path / "best.safetensors"
    download.value.save_as(weights)
    tensors = load_file(weights)
    assert sum(tensor.numel() for tensor in tensors.values() if tensor.dtype == torch.float32) > 10_000
    if takes_screenshots():
        picture_branch_and_proof(page, dashboard, run)
    take_screenshots(page, "run")
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page.get_by_text(run).first).to_be_visible()
    take_screenshots(page, "runs")
    page.get_by_role("link", name="Machine", exact=True).click()
    expect(page.get_by_role("heading", name="Machine", level=1)).to_be_visible()
    take_screenshots(page, "machine")


def picture_branch_and_proof(page: Page, dashboard: Dashboard, run: str) -> None:
    """Take the screenshots of the branch form, and return to the page of the run with a proven resume."""
    dashboard.relight("drill", "digits")
    page.goto(dashboard.address(f"/run?id={run}"))
    page.get_by_role("button", name=re.compile("^Actions for step")).first.click()
    page.get_by_role("menuitem", name="Branch from here").click()
    page.wait_for_url(re.compile(r"/branch\?"))
    field = page.get_by_label("Learning rate", exact=True)
    field.fill("0.0005")
    field.press("Tab")
    expect(page.get_by_text("changed, was 0.003", exact=True)).to_be_visible()
    take_screenshots(page, "branch")
    page.goto(dashboard.address(f"/run?id={run}"))
    expect(page.get_by_text("resume proven", exact=True)).to_be_visible()


def launch_digits(page: Page, *, epochs: int) -> None:
    """Open the Launch page, set the epochs of `digits`, press Launch, and wait for the page of the run."""
    page.get_by_role("link", name="Launch", exact=True).click()
    expect(page.get_by_role("heading", name="Launch", level=1)).to_be_visible()
    field = page.get_by_label("Epochs", exact=True)
    field.fill(str(epochs))
    field.press("Tab")
    take_screenshots(page, "launch")
    page.get_by_role("button", name="Launch", exact=True).click()
    page.wait_for_url(re.compile(r"/run\?"))
