"""A real disk that fills up during a real training: nothing stops, every screen says so, and saving recovers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from integration import soak
from relight.checkpoints.recovery import find_newest_good, verify_store
from relight.checkpoints.store import CheckpointStore
from relight.metrics.series import read_series
from relight.overview.summary import RunSummary, summarize_run
from relight.runs.layout import RunLayout
from relight.runs.lock import is_locked
from relight.runs.status import RunStatus
from relight_app.engine import Engine
from tests.app.parts.shown import show_run
from tests.durability.disks import Disk, make_disk, need_disks

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("disks"), pytest.mark.timeout(300)]

CONFIG = {**soak.CONFIG, "epochs": 8, "checkpoint_every_s": 0.3, "nap_s": 0.012, "width": 20_000}
CHECKPOINT_BYTES = 1_000_000
"""A checkpoint of that width is larger, and everything else that a run writes is much smaller."""


class FullDisk:
    """A small disk, its runs folder, and the command line that uses it."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.runs = disk.path / "runs"

    def relight(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "relight.cli", *arguments],
            env={**os.environ, "RELIGHT_RUNS": str(self.runs)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def launch(self, config: dict[str, Any] | None = None) -> RunLayout:
        settings = [f"--set={name}={value}" for name, value in {**CONFIG, **(config or {})}.items()]
        said = self.relight("run", soak.TASK, "--name", "filling", "--detach", *settings)
        assert said.returncode == 0, said.stderr
        return RunLayout(next(path for path in self.runs.iterdir() if not path.name.startswith(".")))

    def fill_until_saving_fails(self, layout: RunLayout) -> tuple[Path, RunSummary]:
        """Fill the disk; return the file that fills it and the summary that tells of the failure.

        A disk that was filled between a save and the deletion of an older checkpoint has room for one more, and for
        the next after that. So it is filled again when there is room for one. The few blocks that are free while a run
        replaces a record are left alone.
        """
        ballast = self.disk.fill()

        def look() -> RunSummary | None:
            summary = summarize_run(layout)
            if summary.saving_failure is None and shutil.disk_usage(self.disk.path).free > CHECKPOINT_BYTES // 2:
                self.disk.fill()
            return summary if summary.saving_failure else None

        return ballast, soak.wait_for(look, why=f"the failure to be told: {summarize_run(layout)}")

    def show(self, layout: RunLayout) -> dict[str, Any]:
        said = self.relight("show", layout.run_id, "--json")
        assert said.returncode == 0, said.stderr
        shown: dict[str, Any] = json.loads(said.stdout)
        return shown


@pytest.fixture
def full() -> Iterator[FullDisk]:
    need_disks()
    with make_disk(megabytes=40) as disk:
        made = FullDisk(disk)
        yield made
        soak.end_everything(made.runs)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunLayout]:
    """Run the same training on a disk with space."""
    need_disks()
    folder = tmp_path_factory.mktemp("roomy")
    layout = soak.launch(folder, CONFIG, name="undisturbed")
    try:
        soak.wait_for(lambda: not summarize_run(layout).status.is_live, why="the undisturbed run")
        yield layout
    finally:
        soak.end_everything(folder)


def wait_for_summary(layout: RunLayout, condition: Any, why: str) -> RunSummary:
    def look() -> RunSummary | None:
        summary = summarize_run(layout)
        return summary if condition(summary) else None

    found: RunSummary = soak.wait_for(look, why=f"{why}: {summarize_run(layout)}")
    return found


def test_a_disk_that_fills_up_stops_nothing_and_saving_recovers_when_there_is_room_again(
    full: FullDisk, undisturbed: RunLayout
) -> None:
    layout = full.launch({"nap_s": 0.03})  # slow enough to be running when the disk is full
    wait_for_summary(layout, lambda run: run.durable_step, "a first checkpoint")
    ballast, failing = full.fill_until_saving_fails(layout)
    assert "the disk is full" in (failing.saving_failure or "")
    assert full.show(layout)["saving_failure"].startswith("The checkpoint at step ")
    assert "the disk is full" in full.relight("show", layout.run_id).stdout
    page = show_run(Engine(full.runs), layout.run_id).text
    assert "Checkpoints cannot be saved." in page
    assert "the disk is full" in page

    # Training continues, and the last good checkpoint stays.
    later = wait_for_summary(layout, lambda run: run.step >= failing.step + 20, "steps on a full disk")
    assert later.status is RunStatus.RUNNING
    good, passed = find_newest_good(CheckpointStore(layout.checkpoints), quarantine=False)
    assert good is not None
    assert list(passed) == []
    assert later.durable_step == good.step < later.step
    # The summary shows the work at risk.
    assert later.work_at_risk_steps == later.step - good.step

    ballast.unlink()
    recovered = wait_for_summary(layout, lambda run: run.saving_failure is None, "saving to recover")
    assert recovered.durable_step is not None
    assert recovered.durable_step > good.step
    ended = wait_for_summary(layout, lambda run: not run.status.is_live, "the end")
    assert ended.status is RunStatus.FINISHED, (ended.reason, ended.traceback)

    # The training has the result, and every value, of one that never saw a full disk.
    assert soak.digest(layout) == soak.digest(undisturbed)
    for name in ("train/loss", "validation/accuracy"):
        one, other = read_series(layout.metrics, name), read_series(undisturbed.metrics, name)
        assert np.array_equal(one.steps, other.steps)
        assert np.array_equal(one.values, other.values)


@pytest.mark.thorough
def test_a_training_that_ends_on_a_full_disk_keeps_its_result_until_there_is_room(
    full: FullDisk, undisturbed: RunLayout
) -> None:
    layout = full.launch({"nap_s": 0.02})  # still running when the disk is full
    wait_for_summary(layout, lambda run: run.durable_step, "a first checkpoint")
    ballast, _ = full.fill_until_saving_fails(layout)
    last = summarize_run(undisturbed).step
    waiting = wait_for_summary(layout, lambda run: run.step == last and run.phase == "saving", "the last step")
    assert waiting.status is RunStatus.RUNNING
    assert waiting.saving_failure
    ballast.unlink()
    ended = wait_for_summary(layout, lambda run: not run.status.is_live, "the end")
    assert ended.status is RunStatus.FINISHED, (ended.reason, ended.traceback)
    store = CheckpointStore(layout.checkpoints)
    assert store.find("latest").step == last
    assert verify_store(store).damaged == []


@pytest.mark.thorough
def test_a_training_that_crashes_on_a_full_disk_can_still_say_why(full: FullDisk) -> None:
    layout = full.launch({"fail_at": 120})
    wait_for_summary(layout, lambda run: run.durable_step, "a first checkpoint")
    full.disk.fill()
    ended = wait_for_summary(layout, lambda run: not run.status.is_live, "the crash")
    assert ended.status is RunStatus.CRASHED
    assert "told to fail" in ended.reason
    assert "told to fail" in (ended.traceback or "")
    soak.wait_for(layout.attempt(1).exit.exists, why="the exit record, on a disk without room")


def test_a_run_on_a_full_disk_can_be_stopped(full: FullDisk) -> None:
    layout = full.launch({"epochs": 1000})
    wait_for_summary(layout, lambda run: run.durable_step, "a first checkpoint")
    full.fill_until_saving_fails(layout)
    said = full.relight("stop", layout.run_id)
    assert "Traceback" not in said.stderr
    ended = wait_for_summary(layout, lambda run: not run.status.is_live, f"the stop: {said}")
    assert ended.status is RunStatus.STOPPED, ended.reason
    assert "without a checkpoint of it" in ended.reason


@pytest.mark.thorough
def test_a_launch_and_a_resume_on_a_full_disk_are_refused_in_one_sentence(full: FullDisk) -> None:
    layout = full.launch({"epochs": 1})
    wait_for_summary(layout, lambda run: not run.status.is_live, "the end of a short run")
    soak.wait_for(lambda: not is_locked(layout), why="the last of its processes")
    full.disk.fill()
    for command in (["run", soak.TASK, "--detach"], ["branch", layout.run_id, "--from", "latest", "--detach"]):
        said = full.relight(*command)
        assert said.returncode == 1, said
        assert "No space left" in said.stderr or "disk is full" in said.stderr
        assert len(said.stderr.strip().splitlines()) == 1, said.stderr
    assert [path.name for path in Path(full.runs).iterdir()] == [layout.run_id], "half a run was left behind"
