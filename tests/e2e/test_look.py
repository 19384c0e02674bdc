"""Every page fits its window: empty, full and crashed, light and dark, on a phone and on a wide screen.

Look at the pictures that this leaves in `test-results/look` after a change of a page.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app.sample_runs import SampleRun, make_gallery, make_run
from tests.e2e.conftest import Dashboard
from tests.e2e.screenshots import take_every_look

pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.thorough, pytest.mark.timeout(600)]

FOLDER = Path(__file__).parents[2] / "test-results" / "look"


def test_pages_without_runs_fit_the_window(page: Page, dashboard: Dashboard) -> None:
    look_at(page, dashboard, {
        "list-empty": "/", "launch": "/launch?task=digits",
        "launch-file": "/launch?task=file&file=/nowhere/train.py:Task",
        "branch-empty": "/branch", "compare-empty": "/compare", "machine": "/machine", "run-missing": "/run?id=nothing",
    })  # fmt: skip


def test_pages_of_runs_fit_the_window(page: Page, dashboard: Dashboard) -> None:
    runs = {name: layout.run_id for name, layout in make_gallery(dashboard.runs).items()}
    new = make_run(
        dashboard.runs, SampleRun("new", status="running", step=0, durable_lag=0, checkpoints=0, age_s=2)
    ).run_id
    long = next(run for name, run in runs.items() if name.startswith("a very long"))
    several = ",".join(list(runs.values())[:8])
    look_at(page, dashboard, {
        "list": "/", "list-none-match": "/?q=lr>7", "run-new": f"/run?id={new}",
        "run": f"/run?id={runs['digits baseline']}", "run-full-disk": f"/run?id={runs['full disk']}",
        "run-crashed": f"/run?id={runs['resnet pets']}&tab=attempts",
        "run-gpus": f"/run?id={runs['gpt-124M bf16']}&tab=config",
        "run-interrupted": f"/run?id={runs['overnight']}", "run-finished": f"/run?id={runs['sweep-00']}",
        "run-long-name": f"/run?id={long}",
        "branch": f"/branch?id={runs['sweep-00']}&step=1200", "compare": f"/compare?ids={several}",
    })  # fmt: skip


def look_at(page: Page, dashboard: Dashboard, pages: dict[str, str]) -> None:
    """Take the pictures of these pages, and assert that none is wider than its window."""
    wide = []
    for name, path in pages.items():
        page.goto(dashboard.address(path))
        page.wait_for_selector(".view h1, .relight-compare > *")
        expect(page.locator("#relight-first")).to_have_count(0)  # Streamlit has taken over
        wide += take_every_look(page, FOLDER, name)
    assert wide == []
