"""Stop and Resume in the browser: nothing is lost, and charts keep their zoom."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from relight.checkpoints.store import CheckpointStore
from relight.metrics.series import read_series, read_split_series
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import AttemptExit, AttemptStart
from tests.app.sample_runs import SampleRun, make_run
from tests.e2e.charts import Chart
from tests.e2e.conftest import Dashboard, wait_until
from tests.e2e.trainings import count_attempts, launch_endless, settings, wait_for_status, wait_for_step

pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.timeout(300)]


def test_stop_ends_with_a_checkpoint_of_the_last_step_and_resume_continues_from_there(
    page: Page, dashboard: Dashboard
) -> None:
    layout = launch_endless(dashboard.runs)
    open_run(page, dashboard, layout)
    chart = Chart(page, "Loss")
    chart.wait_for_step(30)
    zoomed = chart.zoom()
    chart.mark()

    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text("Stopped", exact=True).first).to_be_visible()
    record = read_record(layout.attempt(1).exit, AttemptExit)
    assert (record.outcome, record.exit_code) == ("stopped", 130)
    newest = CheckpointStore(layout.checkpoints).find("latest")
    assert (newest.step, newest.reason) == (record.step, "stop")
    cell = page.get_by_role("cell", name="stop", exact=True)
    row = page.get_by_role("table", name="Checkpoints").get_by_role("row").filter(has=cell)
    expect(row).to_contain_text(f"{record.step:,}")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_have_count(0)

    page.get_by_role("button", name="Resume", exact=True).click()
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()
    wait_for_step(layout, record.step + 5, attempt=2)
    chart.wait_for_step(record.step + 5)
    assert read_record(layout.attempt(2).start, AttemptStart).from_step == record.step
    assert read_split_series(layout.metrics, "train/loss").ghosts == ()
    assert chart.range() == zoomed
    assert chart.is_marked(), "the chart was patched in place"


@pytest.mark.thorough
def test_resume_from_an_older_checkpoint_with_its_menu(page: Page, dashboard: Dashboard) -> None:
    layout = launch_endless(dashboard.runs, keep_latest=3, nap_s=0.01)
    store = CheckpointStore(layout.checkpoints)
    wait_until(
        lambda: len([info for info in store.list().checkpoints if info.verified]) >= 3,
        timeout_s=120,
        what="three verified checkpoints",
    )
    dashboard.relight("stop", layout.run_id)
    stopped = wait_for_status(layout, "stopped")
    # A stop right after a save saves the same step again, so the last two checkpoints may have the same step.
    older = max(info.step for info in store.list().checkpoints if info.step < stopped.step)
    assert 0 < older < stopped.step

    open_run(page, dashboard, layout)
    choose(page, older, "Resume from here")
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()
    assert read_record(layout.attempt(2).start, AttemptStart).from_step == older
    wait_for_step(layout, stopped.step + 1, attempt=2)
    chart = Chart(page, "Loss")
    chart.wait_for_step(stopped.step + 1)
    steps = read_series(layout.metrics, "train/loss").steps.tolist()
    assert steps == list(range(1, steps[-1] + 1))
    (ghost,) = read_split_series(layout.metrics, "train/loss").ghosts
    assert ghost.steps.tolist() == list(range(older + 1, stopped.step + 1))
    drawn = chart.points("train")
    assert drawn == list(range(1, drawn[-1] + 1)), "each step once"


@pytest.mark.thorough
def test_a_branch_is_refused_if_its_model_does_not_fit_and_starts_if_it_does(page: Page, dashboard: Dashboard) -> None:
    dashboard.relight("run", "digits", *settings({"epochs": 1, "threads": 1}), "--name", "parent")
    parent = dashboard.only_layout()
    (step,) = [info.step for info in CheckpointStore(parent.checkpoints).list().checkpoints]
    open_run(page, dashboard, parent)
    page.get_by_role("button", name=f"Actions for step {step}", exact=True).click()
    page.get_by_role("menuitem", name="Branch from here", exact=True).click()
    width = page.get_by_label("Width", exact=True)
    width.fill("8")
    width.press("Tab")
    start = page.get_by_role("button", name="Start branch", exact=True)
    start.click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("0.weight (float32 [32, 1, 3, 3] in the checkpoint, float32 [8, 1, 3, 3] now)")
    refusal = dashboard.refusal("branch", parent.run_id, "--from", str(step), "--set", "width=8")
    expect(alert.get_by_text(refusal, exact=True)).to_be_visible()
    assert dashboard.only_layout() == parent, "no folder was left behind"

    width.fill("32")
    epochs = page.get_by_label("Epochs", exact=True)
    epochs.fill("2")
    epochs.press("Tab")
    expect(page.get_by_text("changed, was 1", exact=True).filter(visible=True)).to_have_count(1)  # not of width
    start.click()
    page.wait_for_url(re.compile(r"/run\?"))
    origin = page.get_by_role("link", name=f"branched from {parent.run_id} at step {step}")
    expect(origin).to_be_visible()
    expect(page.get_by_text("epochs 1 → 2")).to_be_visible()
    child = next(layout for layout in list_layouts(dashboard.runs) if layout != parent)
    wait_for_status(child, "finished")
    origin.click()
    expect(page.get_by_role("link", name=f"{child.run_id}, from step {step}")).to_be_visible()


@pytest.mark.thorough
def test_resuming_from_a_damaged_checkpoint_is_refused_as_on_the_command_line(page: Page, dashboard: Dashboard) -> None:
    layout = make_run(dashboard.runs, SampleRun("cut", status="crashed", step=431, signal="SIGKILL"))
    newest = CheckpointStore(layout.checkpoints).find("latest")
    damage_pack(newest.path)
    open_run(page, dashboard, layout)
    choose(page, newest.step, "Resume from here")
    alert = page.get_by_role("alert")
    expect(alert).to_be_visible()
    refusal = dashboard.refusal("resume", layout.run_id, "--from", str(newest.step))
    expect(alert.get_by_text(refusal, exact=True)).to_be_visible()
    assert count_attempts(layout) == 1


@pytest.mark.thorough
def test_the_weights_of_any_checkpoint_can_be_exported_with_its_menu(page: Page, dashboard: Dashboard) -> None:
    layout = make_run(dashboard.runs, SampleRun("done"))
    oldest = CheckpointStore(layout.checkpoints).list().checkpoints[0]
    open_run(page, dashboard, layout)
    choose(page, oldest.step, "Export weights (.safetensors)")
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_visible()
    expect(page.get_by_text(f"{layout.run_id}-step{oldest.step}.safetensors", exact=True)).to_be_visible()


@pytest.mark.thorough
def test_a_checkpoint_is_pinned_and_unpinned_with_its_menu(page: Page, dashboard: Dashboard) -> None:
    layout = make_run(dashboard.runs, SampleRun("done"))
    step = CheckpointStore(layout.checkpoints).list().checkpoints[0].step
    open_run(page, dashboard, layout)
    row = (
        page.get_by_role("table", name="Checkpoints")
        .get_by_role("row")
        .filter(has=page.get_by_role("button", name=f"Actions for step {step}", exact=True))
    )
    choose(page, step, "Pin (never delete)")
    expect(page.get_by_role("button", name=f"Actions for step {step}", expanded=False)).to_be_visible()
    label = row.locator(".badge").get_by_text("pinned", exact=True)
    expect(label).to_be_visible()
    assert "pinned" in labels(dashboard, layout, step)
    choose(page, step, "Unpin")
    expect(label).to_have_count(0)
    assert "pinned" not in labels(dashboard, layout, step)


def test_a_stop_of_a_training_that_cannot_save_asks_first(page: Page, dashboard: Dashboard) -> None:
    layout = make_run(
        dashboard.runs, SampleRun("full disk", status="running", step=900, saving_failure="The disk is full.")
    )
    open_run(page, dashboard, layout)
    page.get_by_role("button", name="Stop", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("The disk is full.")
    dialog.get_by_role("button", name="Keep training").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    assert not layout.stop_request.exists()


@pytest.mark.thorough
def test_a_run_that_was_stopped_on_the_command_line_is_shown_as_stopped_without_a_reload(
    page: Page, dashboard: Dashboard
) -> None:
    layout = launch_endless(dashboard.runs)
    page.goto(dashboard.address("/"))
    wait_for_step(layout, 1)
    expect(page.get_by_role("row").filter(has_text=layout.run_id)).to_contain_text("Running")
    dashboard.relight("stop", layout.run_id)
    expect(page.get_by_role("row").filter(has_text=layout.run_id)).to_contain_text("Stopped")
    page.get_by_role("table", name="Runs").get_by_role("link", name="endless", exact=True).click()
    page.wait_for_url(re.compile(r"/run\?"))
    expect(page.get_by_role("button", name="Resume", exact=True)).to_be_visible()


def open_run(page: Page, dashboard: Dashboard, layout: RunLayout) -> None:
    """Open the page of a run."""
    page.goto(dashboard.address(f"/run?id={layout.run_id}"))
    expect(page.get_by_role("heading", name="Checkpoints")).to_be_visible()


def choose(page: Page, step: int, item: str) -> None:
    """Choose an entry in a checkpoint's menu."""
    page.get_by_role("button", name=f"Actions for step {step}", exact=True).click()
    page.get_by_role("menu", name=f"step {step}", exact=True).get_by_role("menuitem", name=item, exact=True).click()


def labels(dashboard: Dashboard, layout: RunLayout, step: int) -> list[str]:
    """Return the labels of a checkpoint, as the command line lists them."""
    listed = json.loads(dashboard.relight("checkpoints", layout.run_id, "--json").stdout)
    (found,) = [entry["labels"] for entry in listed if entry["step"] == step]
    return list(found)


def damage_pack(manifest: Path) -> None:
    """Flip one bit of the weights."""
    (pack,) = (manifest.parents[1] / "packs").glob(f"{manifest.stem.partition('-')[0]}*")
    content = bytearray(pack.read_bytes())
    content[-5] ^= 1
    pack.write_bytes(content)
