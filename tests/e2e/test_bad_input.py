"""For wrong input, the browser shows the same sentence as the command line, and no run begins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app.sample_runs import SampleRun, make_run
from tests.e2e.conftest import Dashboard

pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.timeout(300)]

CRASHED = SampleRun("crashed", status="crashed", step=431, attempts=2, reason="It was killed.", signal="SIGKILL")


def test_values_that_cannot_be_trained_with_are_refused_as_on_the_command_line(
    page: Page, dashboard: Dashboard
) -> None:
    page.goto(dashboard.address("/launch?task=digits"))
    page.get_by_text("Hardware", exact=True).click()
    for label, value, good in (
        ("Epochs", "0", "1"),
        ("Dropout", "1.5", "0"),
        ("Device", "gpu", ""),
        ("Device", "cuda", ""),
    ):
        fill_in(page, label, value)
        press_launch(page)
        expect_problem(page, dashboard.refusal("run", "digits", "--set", f"{label.lower()}={value}"))
        assert files_of(dashboard.runs) == []
        if good:
            fill_in(page, label, good)


@pytest.mark.thorough
def test_a_missing_folder_of_pictures_is_refused_as_on_the_command_line(
    page: Page, dashboard: Dashboard, tmp_path: Path
) -> None:
    missing = tmp_path / "no pictures here"
    page.goto(dashboard.address("/launch?task=images"))
    press_launch(page)
    expect_problem(page, dashboard.refusal("run", "images"))
    fill_in(page, "Data", str(missing))
    press_launch(page)
    expect_problem(page, dashboard.refusal("run", "images", "--set", f"data={missing}"))
    assert files_of(dashboard.runs) == []


@pytest.mark.thorough
def test_a_task_file_that_does_not_import_is_refused_as_on_the_command_line_with_its_traceback(
    page: Page, dashboard: Dashboard, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import relight\n\n1 / 0\n\nclass Mine(relight.Task): ...\n")
    choose_file(page, dashboard, f"{file}:Mine")
    sentence = dashboard.refusal("run", f"{file}:Mine")
    expect_problem(page, sentence)
    expect(page.get_by_role("alert").locator("pre")).to_contain_text("1 / 0")
    expect(page.get_by_role("button", name="Launch", exact=True)).to_have_count(0)
    assert str(file) in sentence or file.name in sentence
    assert files_of(dashboard.runs) == []


@pytest.mark.thorough
def test_a_missing_task_file_or_class_is_refused_as_on_the_command_line(
    page: Page, dashboard: Dashboard, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("import relight\n\nclass Mine(relight.Task): ...\n")
    for text in (f"{tmp_path}/your.py:Mine", f"{tmp_path}/mine.py:Yours", "digit"):
        choose_file(page, dashboard, text)
        expect_problem(page, dashboard.refusal("run", text))
    assert files_of(dashboard.runs) == []


@pytest.mark.thorough
def test_a_file_that_was_fixed_can_be_launched_from_the_same_page(
    page: Page, dashboard: Dashboard, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    methods = "".join(f"    def {name}(self, *given): ...\n" for name in ("build_model", "build_data", "step"))
    file.write_text(f"import relight\n\nclass Mine(relight.Task)\n{methods}")
    choose_file(page, dashboard, f"{file}:Mine")
    expect(page.get_by_role("alert")).to_be_visible()
    file.write_text(f"import relight\n\nclass Mine(relight.Task):\n{methods}")
    page.get_by_role("button", name="Show options", exact=True).click()
    expect(page.get_by_role("button", name="Launch", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Launch", exact=True)).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.thorough
def test_a_missing_run_is_reported_as_on_the_command_line(page: Page, dashboard: Dashboard) -> None:
    run = make_run(dashboard.runs, CRASHED).run_id
    for wanted in (f"{run}x", "nothing like it"):
        page.goto(dashboard.address(f"/run?id={wanted}"))
        expect(page.get_by_role("heading", name="Run not found")).to_be_visible()
        expect(page.get_by_text(dashboard.refusal("show", wanted), exact=True)).to_be_visible()
    page.get_by_role("link", name="See all runs").click()
    expect(page.get_by_role("table", name="Runs").get_by_role("link", name="crashed", exact=True)).to_be_visible()


@pytest.mark.thorough
def test_a_damaged_run_record_is_reported_as_on_the_command_line_and_hides_no_other_run(
    page: Page, dashboard: Dashboard
) -> None:
    damaged = make_run(dashboard.runs, CRASHED)
    make_run(dashboard.runs, SampleRun("whole"))
    damaged.record.write_bytes(b'{"format": "relight-run", "ver')
    page.goto(dashboard.address("/"))
    sentence = dashboard.refusal("show", damaged.run_id)
    assert str(damaged.record) in sentence
    expect(page.get_by_role("table", name="Runs").get_by_role("link", name="whole", exact=True)).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text=damaged.run_id)).to_have_text(f"{damaged.run_id}: {sentence}")
    page.goto(dashboard.address(f"/run?id={damaged.run_id}"))
    expect(page.get_by_text(sentence, exact=True)).to_be_visible()


@pytest.mark.thorough
def test_damaged_files_of_a_run_do_not_hide_its_page(page: Page, dashboard: Dashboard) -> None:
    """Damage all files that charts are made of at once; tests/app/parts damages each file alone."""
    layout = make_run(dashboard.runs, SampleRun("x", status="crashed", step=431, attempts=2, signal="SIGKILL"))
    for path in (*layout.metrics.glob("0002-*"), layout.attempt(2).log, layout.attempt(2).progress):
        path.write_bytes(os.urandom(333))
    max((layout.checkpoints / "packs").iterdir()).write_bytes(os.urandom(333))
    page.goto(dashboard.address(f"/run?id={layout.run_id}"))
    expect(page.get_by_role("heading", name="x", level=1)).to_be_visible()
    expect(page.get_by_role("heading", name="Checkpoints")).to_be_visible()
    for tab in ("Config", "Attempts", "Log"):
        open_tab(page, tab)
    expect(page.get_by_role("button", name="Resume", exact=True)).to_be_visible()
    page.goto(dashboard.address("/"))
    expect(page.get_by_role("table", name="Runs").get_by_role("link", name="x", exact=True)).to_be_visible()
    assert page.locator("[data-testid=stException]").count() == 0


def open_tab(page: Page, name: str) -> None:
    """Select a tab with one press."""
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tabpanel", name=name)).to_be_visible()


@pytest.mark.thorough
def test_a_runs_folder_that_cannot_be_written_is_reported_as_on_the_command_line(
    page: Page, dashboard: Dashboard
) -> None:
    page.goto(dashboard.address("/launch?task=digits"))
    launch = page.get_by_role("button", name="Launch", exact=True)
    expect(launch).to_be_visible()
    with unwritable(dashboard.runs):
        press_launch(page)
        expect_problem(page, dashboard.refusal("run", "digits", "--detach"))
    expect(launch).to_be_enabled()
    assert files_of(dashboard.runs) == []


@pytest.mark.thorough
def test_a_runs_folder_that_cannot_be_read_is_reported_as_on_the_command_line(page: Page, dashboard: Dashboard) -> None:
    page.goto(dashboard.address("/"))
    expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
    with unwritable(dashboard.runs):
        expect_problem(page, dashboard.refusal("list"))
    expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()


@contextmanager
def unwritable(runs: Path) -> Iterator[None]:
    """Put a file in place of the folder, which stops even root from writing."""
    runs.mkdir(exist_ok=True)
    aside = runs.with_name("aside")
    runs.rename(aside)
    runs.write_text("no folder")
    try:
        yield
    finally:
        runs.unlink()
        aside.rename(runs)


def choose_file(page: Page, dashboard: Dashboard, text: str) -> None:
    """Enter a task file on the Launch page."""
    page.goto(dashboard.address("/launch?task=file"))
    field = page.get_by_label("Task or script file", exact=True)
    field.fill(text)
    field.press("Enter")


def fill_in(page: Page, label: str, value: str) -> None:
    """Type a value into a field and leave it with Tab."""
    field = page.get_by_label(label, exact=True)
    field.fill(value)
    field.press("Tab")


def press_launch(page: Page) -> None:
    """Press Launch immediately, so that the typed values arrive with the press."""
    page.get_by_role("button", name="Launch", exact=True).click()


def expect_problem(page: Page, sentence: str) -> None:
    """Expect exactly that sentence, as an alert."""
    expect(page.get_by_role("alert").get_by_text(sentence, exact=True)).to_be_visible()


def files_of(runs: Path) -> list[Path]:
    """Return everything in the runs folder, including hidden files, but not the remembered answers to presses."""
    return sorted(path for path in runs.iterdir() if path.name != ".actions") if runs.is_dir() else []
