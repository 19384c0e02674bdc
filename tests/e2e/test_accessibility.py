"""Every page can be used with a keyboard and a screen reader, in both color schemes and on a phone."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from relight.runs.layout import RunLayout
from tests.app.sample_runs import TRACEBACK, SampleRun, make_run
from tests.e2e.accessibility import find_violations, tab_to
from tests.e2e.conftest import Dashboard, wait_until
from tests.e2e.trainings import wait_for_status

pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.timeout(300)]

SETTLED_S = 20.0
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WIDE, PHONE = {"width": 1440, "height": 2600}, {"width": 390, "height": 2600}
"""High enough that every chart is in view: a chart outside the view is not drawn."""

RUNNING = SampleRun("running", status="running", step=812, age_s=70, durable_lag=38, attempts=2, checkpoints=6, gpus=1)
UNSAVED = SampleRun(
    "unsaved", status="running", step=900, age_s=70, checkpoints=1, saving_failure="The disk is full. Training goes on."
)
CRASHED = SampleRun(
    "crashed", status="crashed", step=431, attempts=2, checkpoints=5, durable_lag=210, traceback=TRACEBACK,
    error="torch.OutOfMemoryError: CUDA out of memory.", reason="torch.OutOfMemoryError: CUDA out of memory.",
)  # fmt: skip
FINISHED = SampleRun("finished")


def test_the_empty_list_of_runs_is_accessible(page: Page, dashboard: Dashboard) -> None:
    page.goto(dashboard.address("/runs"))  # users may type this address; the real one is "/"
    expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
    expect_no_violation(page)


def test_the_list_of_runs_is_accessible(page: Page, dashboard: Dashboard) -> None:
    make_run(dashboard.runs, FINISHED).record.write_text("no record any more")
    for sample in (RUNNING, UNSAVED, CRASHED, FINISHED):
        make_run(dashboard.runs, sample)
    page.goto(dashboard.address("/"))
    for name in ("running", "unsaved", "crashed", "finished"):
        expect(page.get_by_role("table", name="Runs").get_by_role("link", name=name, exact=True)).to_be_visible()
    expect(page.get_by_text("1 run cannot be read")).to_be_visible()
    expect_no_violation(page)


@pytest.mark.parametrize(
    ("sample", "first"),
    [
        pytest.param(RUNNING, "Branch from here", id="running", marks=pytest.mark.thorough),
        pytest.param(CRASHED, "Resume from here", id="crashed"),
    ],
)
def test_the_page_of_a_run_is_accessible(page: Page, dashboard: Dashboard, sample: SampleRun, first: str) -> None:
    page.set_viewport_size({"width": WIDE["width"], "height": WIDE["height"]})
    layout = make_run(dashboard.runs, sample)
    layout.attempt(2).environment.write_text('{"device": "cpu", "changes": [{"key": "x", "before": 1, "now": 2}]}')
    open_run(page, dashboard, layout)
    expect_no_violation(page)
    if sample is CRASHED:
        for tab in ("Config", "Attempts"):
            page.get_by_role("tab", name=tab).click()
            expect(page.get_by_role("tabpanel", name=tab)).to_be_visible()
            if tab == "Attempts":
                page.get_by_text("Log, exit record and environment").first.click()
            expect_no_violation_now(page)
    page.get_by_role("button", name=re.compile("^Actions for step")).first.click()
    expect(page.get_by_role("menuitem", name=first)).to_be_focused()
    expect_no_violation_now(page)


@pytest.mark.thorough
@pytest.mark.parametrize("sample", [UNSAVED, FINISHED], ids=lambda sample: sample.name)
def test_parts_that_only_some_runs_have_are_accessible(page: Page, dashboard: Dashboard, sample: SampleRun) -> None:
    page.set_viewport_size({"width": WIDE["width"], "height": WIDE["height"]})
    open_run(page, dashboard, make_run(dashboard.runs, sample))
    for scheme in SCHEMES:
        choose_scheme(page, scheme)
        expect_no_violation_now(page)


@pytest.mark.thorough
def test_the_form_of_a_branch_is_accessible(page: Page, dashboard: Dashboard) -> None:
    layout = make_run(dashboard.runs, FINISHED)
    page.goto(dashboard.address(f"/branch?id={layout.run_id}&step=400"))
    epochs = page.get_by_label("Epochs", exact=True)
    epochs.fill("30")
    epochs.press("Tab")
    expect(page.get_by_text("changed, was 12", exact=True)).to_be_visible()
    expect_no_violation_now(page)


def test_the_page_of_a_missing_run_is_accessible(page: Page, dashboard: Dashboard) -> None:
    page.goto(dashboard.address("/run?id=nothing"))
    expect(page.get_by_role("heading", name="Run not found")).to_be_visible()
    expect_no_violation(page)


@pytest.mark.thorough
@pytest.mark.parametrize("task", ["digits", pytest.param("file", marks=pytest.mark.thorough)])
def test_the_launch_form_is_accessible(page: Page, dashboard: Dashboard, task: str) -> None:
    query = "task=digits" if task == "digits" else f"task=file&file={dashboard.runs}/nothing.py:Task"
    page.goto(dashboard.address(f"/launch?{query}"))
    if task == "digits":
        for group in ("Hardware", "Checkpoints"):
            page.get_by_text(group, exact=True).click()
        expect(page.get_by_label("Device", exact=True)).to_be_visible()
        expect(page.get_by_role("button", name="Launch", exact=True)).to_be_visible()
    else:
        expect(page.get_by_role("alert")).to_be_visible()
    expect_no_violation(page)


def test_the_machine_is_accessible(page: Page, dashboard: Dashboard) -> None:
    page.goto(dashboard.address("/machine"))
    expect(page.get_by_role("heading", name="CPU")).to_be_visible()
    expect_no_violation(page)


@pytest.mark.thorough
def test_buttons_have_exactly_their_names(page: Page, dashboard: Dashboard) -> None:
    page.goto(dashboard.address("/launch"))
    expect(page.get_by_role("button", name="Launch", exact=True)).to_have_count(1)
    open_run(page, dashboard, make_run(dashboard.runs, RUNNING))
    expect(page.get_by_role("button", name="Stop", exact=True)).to_have_count(1)
    expect(page.get_by_role("button", name="Resume", exact=True)).to_have_count(0)
    open_run(page, dashboard, make_run(dashboard.runs, CRASHED))
    expect(page.get_by_role("button", name="Resume", exact=True)).to_have_count(1)
    expect(page.get_by_role("button", name="Stop", exact=True)).to_have_count(0)
    expect(page.get_by_role("button", name="Export best weights", exact=True)).to_have_count(1)
    page.get_by_role("button", name="Export best weights", exact=True).click()
    download = page.get_by_role("button", name="Download", exact=True)
    expect(download).to_have_count(1)
    tab_to(page, download)
    for key in ("Enter", "Space"):
        with page.expect_download():
            page.keyboard.press(key)
    expect_no_violation_now(page)


@pytest.mark.thorough
def test_a_training_is_launched_stopped_and_resumed_with_the_keyboard(page: Page, dashboard: Dashboard) -> None:
    page.goto(dashboard.address("/launch"))
    epochs = page.get_by_label("Epochs", exact=True)
    tab_to(page, epochs)
    page.keyboard.type("100000")
    launch = page.get_by_role("button", name="Launch", exact=True)
    tab_to(page, launch)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/run\?"))
    stop = page.get_by_role("button", name="Stop", exact=True)
    expect(stop).to_be_visible()
    layout = RunLayout(dashboard.runs / dashboard.only_run())
    tab_to(page, stop)
    page.keyboard.press("Space")
    wait_for_status(layout, "stopped")
    resume = page.get_by_role("button", name="Resume", exact=True)
    expect(resume).to_be_visible()
    tab_to(page, resume)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()
    assert dashboard.show(layout.run_id)["attempt"] == 2


def open_run(page: Page, dashboard: Dashboard, layout: RunLayout) -> None:
    """Open the page of a run and wait until all charts in view are drawn."""
    page.goto(dashboard.address(f"/run?id={layout.run_id}"))
    expect(page.get_by_role("heading", name="Checkpoints")).to_be_visible()
    page.wait_for_selector(".relight-chart[data-points]")


def expect_no_violation(page: Page) -> None:
    """Assert that there are no violations in light mode, in dark mode, and on a phone."""
    for scheme in SCHEMES:
        choose_scheme(page, scheme)
        expect_no_violation_now(page)
    before = page.viewport_size
    page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
    expect_no_violation_now(page)
    if before:
        page.set_viewport_size(before)


def choose_scheme(page: Page, scheme: Literal["light", "dark"]) -> None:
    """Request a color scheme, and wait until the page uses it."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_selector("#relight-first", state="detached")  # Streamlit has started, and follows the scheme
    page.wait_for_function(
        "dark => (getComputedStyle(document.querySelector('.stApp')).colorScheme === 'dark') === dark",
        arg=scheme == "dark",
    )


def expect_no_violation_now(page: Page) -> None:
    """Assert that there are no violations now. Retry for a while, because colors in a transition do not count."""
    found: list[str] = []

    def none() -> bool:
        found[:] = find_violations(page)
        return not found

    try:
        wait_until(none, timeout_s=SETTLED_S, what="no violation")
    except AssertionError:
        raise AssertionError("\n".join(found)) from None
