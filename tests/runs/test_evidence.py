"""Status of real processes: right within two seconds of any kill, at any moment."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from relight.runs.evidence import gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.process_identity import current_process, identify_process
from relight.runs.record_file import write_record
from relight.runs.records import AttemptExit, AttemptProcesses
from relight.runs.run_record import read_run_record
from relight.runs.status import RunStatus, StatusReport, derive_status
from relight.runs.stop_request import request_stop
from tests.patience import stretch
from tests.runs.run_builder import RunBuilder, dead_process

LIVE = "import sys; print('up', flush=True); sys.stdin.read()"

Start = Callable[..., subprocess.Popen[str]]


def _report(layout: RunLayout, *, now_s: float | None = None) -> StatusReport:
    evidence = gather_evidence(layout)
    return derive_status(evidence if now_s is None else dataclasses.replace(evidence, now_s=now_s))


def _status(layout: RunLayout) -> RunStatus:
    return _report(layout).status


def _expect(layout: RunLayout, status: RunStatus, *, within_s: float = 2.0) -> None:
    deadline = time.monotonic() + stretch(within_s)
    while (found := _status(layout)) is not status:
        assert time.monotonic() < deadline, f"{found} after {within_s} s, not {status}"
        time.sleep(0.01)


@pytest.fixture
def pair(tmp_path: Path, start_process: Start) -> tuple[RunBuilder, subprocess.Popen[str], subprocess.Popen[str]]:
    """A run with a living supervisor and trainer."""
    supervisor, trainer = start_process(LIVE), start_process(LIVE)
    for process in (supervisor, trainer):
        assert process.stdout
        process.stdout.readline()
    run = RunBuilder.create(tmp_path).start()
    run.processes(identify_process(supervisor.pid), identify_process(trainer.pid))
    return run, supervisor, trainer


def test_a_living_pair_is_running(pair: tuple[RunBuilder, subprocess.Popen[str], subprocess.Popen[str]]) -> None:
    assert _status(pair[0].layout) is RunStatus.RUNNING


def test_killing_the_trainer_the_supervisor_or_both_shows_at_once(
    pair: tuple[RunBuilder, subprocess.Popen[str], subprocess.Popen[str]],
) -> None:
    run, supervisor, trainer = pair
    os.kill(trainer.pid, signal.SIGKILL)
    _expect(run.layout, RunStatus.CRASHED)
    os.kill(supervisor.pid, signal.SIGKILL)
    _expect(run.layout, RunStatus.INTERRUPTED)


def test_killing_only_the_supervisor_shows_at_once(
    pair: tuple[RunBuilder, subprocess.Popen[str], subprocess.Popen[str]],
) -> None:
    run, supervisor, _ = pair
    os.kill(supervisor.pid, signal.SIGKILL)
    _expect(run.layout, RunStatus.INTERRUPTED)


def test_a_stopped_supervisor_does_not_hide_a_dead_trainer(
    pair: tuple[RunBuilder, subprocess.Popen[str], subprocess.Popen[str]],
) -> None:
    run, supervisor, trainer = pair
    os.kill(supervisor.pid, signal.SIGSTOP)
    os.kill(trainer.pid, signal.SIGKILL)
    _expect(run.layout, RunStatus.CRASHED)


def test_a_supervisor_that_ends_right_after_its_exit_record_never_shows_as_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records of the end are read after the question who lives, so nothing falls between the two."""
    run = RunBuilder.create(tmp_path).start().processes(current_process(), current_process())
    from relight.runs import evidence as module

    def die_while_asked(_: object) -> bool:
        if not run.files.exit.exists():
            write_record(run.files.exit, AttemptExit(attempt=1, time_s=time.time(), outcome="finished"))
        return False

    monkeypatch.setattr(module, "is_alive", die_while_asked)
    assert _status(run.layout) is RunStatus.FINISHED


def test_a_run_without_an_attempt_is_queued_at_first(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path)
    record = read_run_record(run.layout)
    assert _report(run.layout, now_s=record.created_s + 1).status is RunStatus.QUEUED
    assert _report(run.layout, now_s=record.created_s + 11).status is RunStatus.INTERRUPTED


def test_a_launcher_that_was_killed_before_its_supervisor_came_shows_as_interrupted(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path).start(age_s=5.0)
    assert _status(run.layout) is RunStatus.INTERRUPTED
    with RunLock.acquire(run.layout):
        assert _status(run.layout) is RunStatus.QUEUED


def test_an_attempt_folder_without_a_start_record_counts_from_its_own_time(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path)
    run.layout.attempt(1).folder.mkdir()
    evidence = gather_evidence(run.layout)
    assert abs(evidence.launched_s - time.time()) < 5


def test_a_restarted_machine_and_another_machine_are_told_apart(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path).start()
    before = msgspec.structs.replace(current_process(), boot_id="the boot before")
    run.processes(before, before).progress(3)
    report = _report(run.layout)
    assert (report.status, "restarted" in report.reason) == (RunStatus.INTERRUPTED, True)
    elsewhere = msgspec.structs.replace(before, host="node-7")
    run.processes(elsewhere, elsewhere)
    assert _report(run.layout).reason == "It runs on the machine 'node-7'."
    late = _report(run.layout, now_s=time.time() + 60)
    assert (late.status, "node-7" in late.reason) == (RunStatus.INTERRUPTED, True)


def test_a_stop_request_counts_only_for_its_attempt(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path).start()
    request_stop(run.layout)
    assert gather_evidence(run.layout).stop is not None
    run.start()
    assert gather_evidence(run.layout).stop is None


@pytest.mark.parametrize("data", [b"", b'{"version": 1, "supervisor": {"pid"', b"\x00\xffgarbage"])
@pytest.mark.parametrize("name", ["start.json", "processes.json", "exit.json", "outcome.json"])
def test_a_damaged_record_is_noted_and_the_rest_still_counts(tmp_path: Path, name: str, data: bytes) -> None:
    run = RunBuilder.create(tmp_path).start().processes(dead_process(), dead_process())
    (run.files.folder / name).write_bytes(data)
    evidence = gather_evidence(run.layout)
    assert list(evidence.damage) == [name]
    assert _status(run.layout) is RunStatus.INTERRUPTED
    run.processes(current_process(), current_process())
    assert _status(run.layout) is RunStatus.RUNNING, "who lives is believed more than a damaged file"


def test_processes_of_a_reused_pid_are_dead(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path).start()
    write_record(run.files.processes, AttemptProcesses(supervisor=dead_process(), trainer=dead_process()))
    assert _status(run.layout) is RunStatus.INTERRUPTED
