"""Real trainings are launched, stopped, killed, resumed and branched, also in unusual surroundings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from integration import soak
from integration.conftest import ENDLESS, QUICK, Workshop
from relight.checkpoints.store import CheckpointStore
from relight.metrics.series import read_series, read_split_series
from relight.overview.summary import summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import AttemptProcesses, AttemptStart, RunRecord
from relight.runs.status import RunStatus
from relight.supervision.branch import branch_run
from relight.supervision.resume import resume_run
from relight.supervision.stop import stop_run

pytestmark = pytest.mark.processes


def test_a_stop_saves_the_last_step_and_a_resume_continues_from_it(workshop: Workshop) -> None:
    layout = workshop.launch(ENDLESS)
    workshop.wait_for_step(layout, 3)
    record = stop_run(layout, wait_s=60.0)
    assert record is not None
    assert (record.outcome, record.exit_code) == ("stopped", 130)
    newest = CheckpointStore(layout.checkpoints).find("latest")
    assert (newest.step, newest.reason) == (record.step, "stop")
    summary = summarize_run(layout)
    assert (summary.status, summary.work_at_risk_steps) == (RunStatus.STOPPED, 0)
    resume_run(layout)
    assert read_record(layout.attempt(2).start, AttemptStart).from_step == record.step
    assert workshop.wait_for_step(layout, record.step + 3).attempt == 2
    assert read_split_series(layout.metrics, "train/loss").ghosts == ()


@pytest.mark.thorough
def test_a_killed_run_shows_each_step_once_and_the_repeated_part_as_ghost(workshop: Workshop) -> None:
    layout = workshop.launch({**QUICK, "checkpoint_every_s": 0, "checkpoint_every_steps": 15, "nap_s": 0.02})
    soak.wait_for(lambda: (summarize_run(layout).durable_step or 0) >= 15, why="a checkpoint")
    summary = workshop.wait_for_step(layout, 19)
    assert summary.pids.trainer is not None
    os.kill(summary.pids.trainer, signal.SIGKILL)
    record = workshop.wait_for_end(layout)
    assert record.signal == "SIGKILL"
    dead = summarize_run(layout)
    assert dead.work_at_risk_steps == record.step - (dead.durable_step or 0) > 0
    resume_run(layout)
    workshop.finish(layout)
    steps = read_series(layout.metrics, "train/loss").steps.tolist()
    assert steps == list(range(1, 81))
    (ghost,) = read_split_series(layout.metrics, "train/loss").ghosts
    assert ghost.steps.tolist() == list(range((dead.durable_step or 0) + 1, record.step + 1))


@pytest.mark.thorough
def test_an_exception_keeps_its_whole_traceback_and_the_last_finished_step(workshop: Workshop) -> None:
    layout = workshop.launch({**ENDLESS, "fail_at": 8, "checkpoint_every_s": 0}, max_restarts=3)
    soak.wait_for(layout.attempt(2).exit.exists, why="the second attempt's end")
    summary = summarize_run(layout)
    assert summary.status is RunStatus.CRASHED
    assert summary.error == "ValueError: told to fail"
    assert summary.traceback is not None
    assert "tiny_task.py" in summary.traceback
    assert read_record(layout.attempt(2).start, AttemptStart).from_step == 7
    assert "ValueError: told to fail" in layout.attempt(1).log.read_text()


@pytest.mark.thorough
def test_a_branch_trains_with_another_config_and_its_parent_stays_unchanged(workshop: Workshop) -> None:
    layout = workshop.launch(QUICK)
    workshop.finish(layout)
    before = soak.digest(layout)
    launched = branch_run(layout, from_="latest", config_changes={"epochs": 6, "lr": 0.01}, name="warmer")
    summary = workshop.finish(launched.layout)
    assert summary.parent is not None
    assert (summary.parent.step, summary.step, summary.name) == (80, 120, "warmer")
    assert summary.parent.changes == {"epochs": (4, 6), "lr": (0.001, 0.01)}
    assert read_series(launched.layout.metrics, "train/loss").steps[0] == 81
    assert soak.digest(layout) == before


@pytest.mark.thorough
def test_a_moved_run_folder_resumes_in_its_new_place(workshop: Workshop, tmp_path: Path) -> None:
    layout = workshop.launch(ENDLESS)
    workshop.wait_for_step(layout, 3)
    record = stop_run(layout, wait_s=60.0)
    assert record is not None
    moved = RunLayout(workshop.folder / "renamed")
    soak.wait_for(lambda: not soak.is_locked(layout), why="all processes to end")
    layout.folder.rename(moved.folder)
    resume_run(moved)
    assert workshop.wait_for_step(moved, record.step + 1).status is RunStatus.RUNNING


@pytest.mark.thorough
def test_a_run_folder_that_is_moved_while_it_trains_comes_back_nowhere_and_resumes(workshop: Workshop) -> None:
    layout = workshop.launch(ENDLESS)
    summary = workshop.wait_for_step(layout, 3)
    moved = RunLayout(workshop.folder / "renamed")
    layout.folder.rename(moved.folder)
    pids = [pid for pid in (summary.pids.supervisor, summary.pids.trainer, summary.pids.writer) if pid is not None]
    soak.wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids), why="all processes to end")
    assert list_layouts(workshop.folder) == [moved]
    assert not layout.folder.exists()
    reached = summarize_run(moved).step
    resume_run(moved)
    assert workshop.wait_for_step(moved, reached + 1).status is RunStatus.RUNNING
    assert not layout.folder.exists()


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_does_not_stop_the_training(workshop: Workshop) -> None:
    layout = workshop.launch({**QUICK, "fail_at": 5, "checkpoint_every_s": 0}, max_restarts=1)
    soak.wait_for(lambda: layout.latest_attempt() == 2, why="the restart")
    layout.attempt(2).log.symlink_to("/dev/full")  # while the restart waits; every write fails with ENOSPC
    workshop.wait_for_end(layout)
    summary = summarize_run(layout)
    # It trained without a log up to its next exception, whose traceback is in the record.
    assert (summary.status, summary.step) == (RunStatus.CRASHED, 8)
    assert summary.traceback is not None
    assert "told to fail" in summary.traceback


def test_a_project_whose_packages_are_called_core_and_app_trains(workshop: Workshop, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for package in ("core", "app", "utils"):
        (project / package).mkdir(parents=True)
        (project / package / "__init__.py").write_text(f"NAME = {package!r}\n")
    source = Path(soak.TASK.rpartition(":")[0]).read_text()
    checks = "import app, core, utils\nassert (app.NAME, core.NAME, utils.NAME) == ('app', 'core', 'utils')\n"
    (project / "core" / "mine.py").write_text(source.replace("\nimport time\n", f"\nimport time\n{checks}\n", 1))
    # Files in the user's folder that shadow installed modules must not reach our own processes.
    for name in ("msgspec", "psutil", "relight"):
        (project / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    layout = workshop.launch({**QUICK, "epochs": 1}, task="core/mine.py:Tiny", working_folder=project)
    workshop.finish(layout)


def test_data_loading_processes_end_with_their_trainer(workshop: Workshop) -> None:
    layout = workshop.launch({**ENDLESS, "workers": 2})
    summary = workshop.wait_for_step(layout, 3)
    assert summary.pids.trainer is not None
    workers = [
        child.pid
        for child in psutil.Process(summary.pids.trainer).children(recursive=True)
        if child.pid != summary.pids.writer
    ]
    assert workers
    os.kill(summary.pids.trainer, signal.SIGKILL)
    workshop.wait_for_end(layout)
    soak.wait_for(lambda: not any(_lives(pid) for pid in workers), timeout_s=5.0, why="the workers' end")
    assert resume_run(layout).attempt == 2


def test_the_training_outlives_the_command_line_that_launched_it(workshop: Workshop) -> None:
    arguments = [sys.executable, "-P", "-m", "relight.cli", "run", soak.TASK, "--runs", str(workshop.folder)]
    for key, value in ENDLESS.items():
        arguments += ["--set", f"{key}={value}"]
    terminal = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        (layout,) = soak.wait_for(
            lambda: soak.list_layouts(workshop.folder) if workshop.folder.exists() else [], why="a run"
        )
        workshop.wait_for_step(layout, 2)
        os.killpg(terminal.pid, signal.SIGHUP)  # as a closed terminal does
        terminal.wait(30)
    finally:
        if terminal.poll() is None:
            terminal.kill()
            terminal.wait()
    assert workshop.wait_for_step(layout, summarize_run(layout).step + 5).status is RunStatus.RUNNING


@pytest.mark.thorough
def test_the_command_line_stops_resumes_and_shows_a_run(workshop: Workshop) -> None:
    import json

    settings = [word for key, value in ENDLESS.items() for word in ("--set", f"{key}={value}")]
    launched = workshop.relight("run", soak.TASK, "--detach", "--name", "mine", *settings)
    assert launched.returncode == 0, launched.stderr
    (layout,) = soak.list_layouts(workshop.folder)
    workshop.wait_for_step(layout, 2)
    busy = workshop.relight("resume", "mine", "--detach")
    assert busy.returncode == 1
    assert "already training" in busy.stderr
    assert workshop.relight("stop", "mine").returncode == 0
    workshop.wait_for_end(layout)
    shown = json.loads(workshop.relight("show", "mine", "--json").stdout)
    assert (shown["status"], shown["work_at_risk_steps"]) == ("stopped", 0)
    assert workshop.relight("resume", "mine", "--detach").returncode == 0
    assert workshop.wait_for_step(layout, shown["step"] + 1).attempt == 2


def test_the_supervisor_of_a_real_training_stays_under_40_megabytes(workshop: Workshop) -> None:
    layout = workshop.launch(ENDLESS)
    workshop.wait_for_step(layout, 40)
    soak.wait_for(lambda: list(layout.metrics.glob("*-system.rlm")), why="a sample of the machine")
    supervisor = psutil.Process(read_record(layout.attempt(1).processes, AttemptProcesses).supervisor.pid)
    assert supervisor.memory_info().rss < 40 * 2**20
    loaded = {Path(mapped.path).name for mapped in supervisor.memory_maps()} if sys.platform == "linux" else set()
    assert not [name for name in loaded if "torch" in name or "numpy" in name]


@pytest.mark.thorough
def test_the_run_record_is_enough_to_resume_the_run(workshop: Workshop) -> None:
    layout = workshop.launch(QUICK, name="kept")
    workshop.finish(layout)
    record = read_record(layout.record, RunRecord)
    assert record.task.path is not None
    assert Path(record.task.path).is_absolute()
    assert set(QUICK) <= set(record.config)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
