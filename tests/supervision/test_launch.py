"""Starting a new run: once per token, or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from relight.errors import RelightError
from relight.runs.catalog import create_run, list_layouts
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock, is_locked
from relight.runs.record_file import read_record
from relight.runs.records import AttemptProcesses, AttemptStart, RunRecord, TaskReference
from relight.runs.status import RunStatus
from relight.supervision.attempt_start import Launched, begin_attempt
from relight.supervision.trainer_command import build_trainer_command
from supervision.conftest import STAND_IN, Lab, stand_in, wait_for
from tests.patience import stretch

pytestmark = pytest.mark.processes

_LAUNCH = """
import sys, time
from pathlib import Path
from relight.runs.records import PreparedTask, TaskReference
from relight.supervision.launch import launch_run
folder, token, nap, script, *behavior = sys.argv[1:]
task = TaskReference(kind="script", name="stand_in.py", path=script, arguments=tuple(behavior))
launched = launch_run(Path(folder), PreparedTask(task), token=token)
print(launched.layout.run_id, launched.created)
time.sleep(float(nap))
"""


def launch_elsewhere(lab: Lab, *, nap_s: float = 0.0, **more: Any) -> subprocess.Popen[str]:
    """Launch the stand-in with the token "click" from another process, which then sleeps for `nap_s`."""
    command = [sys.executable, "-P", "-c", _LAUNCH, str(lab.folder), "click", str(nap_s), str(STAND_IN)]
    return subprocess.Popen([*command, "train", "10000"], text=True, **more)


def test_a_launch_returns_when_the_supervisor_is_running(lab: Lab) -> None:
    launched = lab.launch("train", "10000", name="My run", max_restarts=2)
    assert launched.created
    assert launched.attempt == 1
    assert lab.summary(launched.layout).status in (RunStatus.QUEUED, RunStatus.RUNNING)
    assert lab.summary(launched.layout).pids.supervisor is not None
    start = read_record(launched.layout.attempt(1).start, AttemptStart)
    assert (start.reason, start.from_sequence, start.max_restarts) == ("launch", None, 2)
    assert read_record(launched.layout.record, RunRecord).name == "My run"


def test_the_same_token_again_is_the_same_run_started_once(lab: Lab) -> None:
    first = lab.launch("train", "10000", token="click")
    second = lab.launch("train", "10000", token="click")
    assert (first.created, second.created) == (True, False)
    assert first.layout == second.layout
    assert first.layout.list_attempts() == [1]


def test_a_double_click_from_many_threads_starts_one_run(lab: Lab) -> None:
    results: list[Launched] = []
    threads = [
        threading.Thread(target=lambda: results.append(lab.launch("train", "10000", token="click"))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(launched.created for launched in results) == [False] * 5 + [True]
    assert len({launched.layout for launched in results}) == 1
    assert len(list_layouts(lab.folder)) == 1
    assert results[0].layout.list_attempts() == [1]


def test_three_processes_with_one_token_start_one_run(lab: Lab) -> None:
    launchers = [launch_elsewhere(lab, stdout=subprocess.PIPE) for _ in range(3)]
    answers = [launcher.communicate(timeout=60)[0].split() for launcher in launchers]
    assert sorted(created for _, created in answers) == ["False", "False", "True"]
    assert len({run for run, _ in answers}) == 1
    assert list_layouts(lab.folder)[0].list_attempts() == [1]


def test_without_a_token_two_launches_are_two_runs(lab: Lab) -> None:
    assert lab.launch("train", "10000").layout != lab.launch("train", "10000").layout


def test_a_launch_that_died_halfway_is_completed_by_the_next_one_with_its_token(lab: Lab) -> None:
    create_run(lab.folder, stand_in("train", "10000"), token="click")
    launched = lab.launch("train", "10000", token="click")
    assert launched.created
    lab.wait_for_step(launched.layout, 1)


def test_the_trainer_survives_the_process_that_launched_it(lab: Lab) -> None:
    launcher = launch_elsewhere(lab, nap_s=600, start_new_session=True)
    try:
        wait_for(lambda: lab.folder.exists() and list_layouts(lab.folder))
        layout = list_layouts(lab.folder)[0]
        lab.wait_for_step(layout, 1)
    finally:
        launcher.kill()
        launcher.wait()
    lab.wait_for_step(layout, 8)
    assert lab.summary(layout).status is RunStatus.RUNNING


def test_the_trainer_works_in_the_folder_of_the_launch(lab: Lab, tmp_path: Path) -> None:
    task = TaskReference(kind="file", name="a.py:A", path=str(STAND_IN), working_folder=str(tmp_path))
    command = build_trainer_command(RunLayout(lab.folder / "r"), 3, task)
    assert command.folder == tmp_path
    assert command.arguments[-2:] == (str(lab.folder / "r"), "3")


def test_a_runs_folder_that_cannot_be_written_is_one_error_and_no_run(lab: Lab, tmp_path: Path) -> None:
    lab.folder.write_text("no folder")
    with pytest.raises(RelightError, match="No run can be created"):
        lab.launch("train")
    lab.folder.unlink()


def test_a_disk_that_fills_up_between_run_and_attempt_leaves_no_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("relight.supervision.attempt_start.write_record", full)
    with pytest.raises(RelightError, match=r"Attempt 1 of run .* No space left"):
        lab.launch("train")
    assert list_layouts(lab.folder) == []


def test_a_supervisor_that_cannot_start_is_reported_and_recorded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # no Python can start with this
    with pytest.raises(RelightError, match="supervisor of run"):
        lab.launch("train")
    monkeypatch.delenv("PYTHONHOME")
    (layout,) = list_layouts(lab.folder)
    summary = lab.summary(layout)
    assert summary.status is RunStatus.CRASHED
    assert "could not be started" in summary.reason
    assert lab.resume(layout, "train", "1").attempt == 2


def test_a_launch_does_not_wait_for_the_modules_of_its_supervisor(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text("raise ImportError('a broken installation')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    layout = lab.launch("train").layout
    wait_for(lambda: not is_locked(layout))
    monkeypatch.delenv("PYTHONPATH")
    summary = lab.summary(layout)
    assert summary.status is RunStatus.INTERRUPTED
    assert "before it had started a trainer" in summary.reason
    assert "a broken installation" in layout.attempt(1).supervisor_log.read_text()
    assert lab.resume(layout, "train", "1").attempt == 2


def test_a_signal_that_comes_before_the_supervisor_has_loaded_stops_the_run(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    os.kill(read_record(layout.attempt(1).processes, AttemptProcesses).supervisor.pid, signal.SIGTERM)
    record = lab.wait_for_exit(layout)
    assert (record.outcome, record.stop_signal) == ("stopped", "SIGTERM")


def test_a_launcher_that_is_killed_leaves_a_supervisor_that_puts_itself_on_record(lab: Lab) -> None:
    layout = create_run(lab.folder, stand_in("train", "10000")).layout
    with RunLock.acquire(layout) as lock:
        begin_attempt(layout, AttemptStart(attempt=1, time_s=time.time(), reason="launch"))
        reading, writing = os.pipe()
        os.close(reading)  # nobody is left to hear the pid
        lock_fd = lock.fileno()
        command = [
            sys.executable,
            "-P",
            "-m",
            "relight.supervision",
            str(layout.folder),
            "1",
            "--lock-fd",
            str(lock_fd),
        ]
        with os.fdopen(writing, "wb") as lost:
            subprocess.run(
                command, stdout=lost, pass_fds=[lock_fd], start_new_session=True, check=True, timeout=stretch(60)
            )
    lab.wait_for_step(layout, 1)
    assert lab.summary(layout).status is RunStatus.RUNNING
