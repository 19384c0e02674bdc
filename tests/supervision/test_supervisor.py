"""A supervisor and its trainer: real processes, with a stand-in script as the training."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from relight.metrics.metric_scan import scan_metrics
from relight.runs.lock import is_locked
from relight.runs.process_identity import is_alive
from relight.runs.record_file import read_record
from relight.runs.records import AttemptExit, AttemptProcesses, AttemptStart
from relight.runs.status import RunStatus
from supervision.conftest import Lab, kill, lives, stand_in, wait_for
from tests.patience import stretch

pytestmark = pytest.mark.processes

LOADER = Path("/lib64/ld-linux-x86-64.so.2")


def test_a_training_that_reaches_its_end_is_finished(lab: Lab) -> None:
    layout = lab.launch("train", "3").layout
    record = lab.wait_for_exit(layout)
    assert (record.outcome, record.exit_code, record.step) == ("finished", 0, 3)
    assert lab.summary(layout).status is RunStatus.FINISHED
    lab.wait_until_free(layout)
    # A supervisor counts as dead when its main thread has ended; the kernel releases the lock with its last thread.
    wait_for(lambda: not is_locked(layout))
    assert layout.attempt(1).supervisor_log.read_bytes() == b""


def test_a_running_training_shows_its_pids_and_holds_the_lock(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    summary = lab.summary(layout)
    processes = lab.processes(layout)
    assert processes.trainer is not None
    assert summary.status is RunStatus.RUNNING
    assert (summary.pids.supervisor, summary.pids.trainer) == (processes.supervisor.pid, processes.trainer.pid)
    assert is_locked(layout)


@pytest.mark.skipif(not LOADER.exists(), reason="needs glibc on x86-64")
@pytest.mark.parametrize("own", [None, "glibc.cpu.x86_non_temporal_threshold=0x500000"])
def test_a_trainer_copies_large_blocks_past_the_caches_unless_you_tune_glibc(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if own is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", own)
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    environment = psutil.Process(lab.trainer(layout)).environ()
    shown = subprocess.run([LOADER, "--list-tunables"], env=environment, capture_output=True, text=True, check=True)
    assert f"x86_non_temporal_threshold: {'0x200000' if own is None else '0x500000'} (" in shown.stdout


@pytest.mark.parametrize("how", ["removed", "moved", "removed in part"])
def test_removing_the_run_folder_ends_the_training_and_the_folder_does_not_come_back(
    lab: Lab, tmp_path: Path, how: str
) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    processes = lab.processes(layout)
    if how == "moved":
        shutil.move(layout.folder, tmp_path / "elsewhere")
    elif how == "removed":
        wait_for(lambda: shutil.rmtree(layout.folder, ignore_errors=True) or not layout.folder.exists())
    else:  # what `rm -r` leaves when the training creates a file meanwhile
        for path in (layout.record, layout.lock, layout.attempt(1).processes):
            path.unlink()
    wait_for(lambda: not is_alive(processes.supervisor) and not is_alive(processes.trainer), timeout_s=15)
    assert layout.folder.exists() == (how == "removed in part")


def test_a_training_continues_when_only_its_run_record_is_lost(lab: Lab) -> None:
    layout = lab.launch("train", "50").layout
    lab.wait_for_step(layout, 1)
    layout.record.unlink()
    assert lab.wait_for_exit(layout).outcome == "finished"


def test_both_streams_reach_the_log_even_from_outside_python(lab: Lab, tmp_path: Path) -> None:
    layout = lab.launch("environment").layout
    lab.wait_for_exit(layout)
    log = layout.attempt(1).log.read_text()
    for line in ("to stderr", "straight to the descriptor", "environment", "step 1"):
        assert line in log


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_signal_is_recorded_by_name_within_a_fraction_of_a_second(lab: Lab, name: str) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 2)
    trainer = lab.trainer(layout)
    if name == "SIGTERM":
        os.kill(trainer, signal.SIGTERM)  # the trainer handles it: it ends at the next step edge
        record = lab.wait_for_exit(layout)
        assert (record.outcome, record.exit_code, record.signal) == ("stopped", 130, None)
        return
    killed_s = time.time()
    os.kill(trainer, signal.Signals[name])
    record = lab.wait_for_exit(layout)
    assert record.time_s - killed_s < stretch(1.0)
    assert (record.outcome, record.exit_code, record.signal) == ("crashed", None, name)
    assert name in record.reason
    assert record.step >= 2
    assert lab.summary(layout).status is RunStatus.CRASHED


def test_an_exception_keeps_its_traceback(lab: Lab) -> None:
    layout = lab.launch("crash", "2").layout
    record = lab.wait_for_exit(layout)
    assert (record.outcome, record.exit_code, record.error, record.step) == ("crashed", 3, "ValueError: no", 2)
    assert record.traceback is not None and record.traceback.endswith("ValueError: no")


def test_an_unexplained_exit_code_is_a_crash(lab: Lab) -> None:
    record = lab.wait_for_exit(lab.launch("code", "7").layout)
    assert (record.outcome, record.exit_code) == ("crashed", 7)


def test_a_trainer_that_cannot_be_started_is_a_crash_with_the_reason(lab: Lab) -> None:
    layout = lab.launch(task=stand_in("train", python="/no/such/program")).layout
    record = lab.wait_for_exit(layout)
    assert record.outcome == "crashed"
    assert "could not be started" in record.reason
    assert "/no/such/program" in record.reason


def test_when_the_supervisor_is_killed_the_trainer_ends_and_the_run_is_interrupted(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    processes = lab.processes(layout)
    kill(processes.supervisor.pid)
    wait_for(lambda: lab.summary(layout).status is RunStatus.INTERRUPTED, timeout_s=2.0)
    wait_for(lambda: not is_alive(processes.trainer), timeout_s=5.0)
    assert "supervisor" in lab.summary(layout).reason
    wait_for(lambda: not is_locked(layout))


def test_when_both_are_killed_the_run_is_interrupted(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    processes = lab.processes(layout)
    assert processes.trainer is not None
    kill(processes.supervisor.pid)
    kill(processes.trainer.pid)
    wait_for(lambda: lab.summary(layout).status is RunStatus.INTERRUPTED, timeout_s=2.0)
    wait_for(lambda: not is_locked(layout), timeout_s=2.0)


def test_workers_left_in_a_dead_trainers_process_group_are_killed(lab: Lab, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    layout = lab.launch("workers", str(note)).layout
    lab.wait_for_step(layout, 1)
    worker = int(note.read_text())
    assert lives(worker)
    kill(lab.trainer(layout))
    lab.wait_for_exit(layout)
    wait_for(lambda: not lives(worker), timeout_s=5.0)


def test_supervisor_and_trainer_are_not_children_of_the_launching_process(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    processes = lab.processes(layout)
    assert processes.trainer is not None
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    assert not children & {processes.supervisor.pid, processes.trainer.pid}
    sessions = {os.getsid(pid) for pid in (0, processes.supervisor.pid, processes.trainer.pid)}
    assert len(sessions) == 3


def test_a_hangup_ends_neither_supervisor_nor_trainer(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    processes = lab.processes(layout)
    assert processes.trainer is not None
    os.kill(processes.supervisor.pid, signal.SIGHUP)
    os.kill(processes.trainer.pid, signal.SIGHUP)
    lab.wait_for_step(layout, 6)
    assert is_alive(processes.supervisor)


def test_sigterm_to_the_supervisor_lets_the_trainer_save(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    os.kill(lab.processes(layout).supervisor.pid, signal.SIGTERM)
    record = lab.wait_for_exit(layout)
    assert (record.outcome, record.exit_code, record.stop_signal) == ("stopped", 130, "SIGTERM")
    assert lab.summary(layout).cause == "stopped_by_signal"


def test_a_log_that_cannot_be_opened_does_not_stop_the_training(lab: Lab) -> None:
    layout = lab.launch("crash-once", max_restarts=1).layout
    wait_for(lambda: layout.latest_attempt() == 2)
    layout.attempt(2).log.mkdir()  # while the restart waits
    assert lab.wait_for_exit(layout, 2).outcome == "finished"
    assert "trains without one" in layout.attempt(1).supervisor_log.read_text()


def test_the_machine_is_sampled_during_the_training(lab: Lab) -> None:
    layout = lab.launch("train", "60").layout
    lab.wait_for_exit(layout)
    lab.wait_until_free(layout)
    assert "system" in scan_metrics(layout.metrics).streams


def test_the_supervisor_stays_small_and_idle(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    wait_for(lambda: "system" in scan_metrics(layout.metrics).streams)
    supervisor = psutil.Process(lab.processes(layout).supervisor.pid)
    before = supervisor.cpu_times()
    begun = time.monotonic()
    lab.wait_for_step(layout, 60)
    spent = supervisor.cpu_times()
    share = (spent.user + spent.system - before.user - before.system) / (time.monotonic() - begun)
    assert supervisor.memory_info().rss < 40 * 2**20
    assert share < stretch(0.05)  # under 1 % on an idle machine, but tests share the machine


def test_a_crash_is_restarted_and_the_next_attempt_says_why(lab: Lab) -> None:
    layout = lab.launch("crash-once", max_restarts=3).layout
    assert lab.wait_for_exit(layout, 1).outcome == "crashed"
    wait_for(lambda: layout.latest_attempt() == 2)
    start = read_record(layout.attempt(2).start, AttemptStart)
    assert (start.reason, start.max_restarts) == ("restart", 3)
    assert start.notes == ("Restarted automatically after a crash at step 3 (restart 1 of 3).",)
    first = read_record(layout.attempt(1).processes, AttemptProcesses)
    assert lab.wait_for_exit(layout, 2).outcome == "finished"
    assert lab.processes(layout, 2).supervisor == first.supervisor
    lab.wait_until_free(layout)
    assert layout.latest_attempt() == 2


@pytest.mark.parametrize("on_record", [True, False])
def test_a_restart_waits_until_the_writer_of_the_dead_trainer_is_done(
    lab: Lab, tmp_path: Path, on_record: bool
) -> None:
    done = tmp_path / "done"
    layout = lab.launch("writer", str(done), max_restarts=1).layout
    if not on_record:
        wait_for(layout.attempt(1).writer.exists)
        layout.attempt(1).writer.unlink()
    assert lab.wait_for_exit(layout, 1).outcome == "crashed"
    assert not done.exists()
    wait_for(lambda: layout.latest_attempt() == 2)
    assert done.exists()


def test_the_same_error_at_the_same_step_ends_the_restarts(lab: Lab) -> None:
    layout = lab.launch("crash", "2", max_restarts=10).layout
    record = lab.wait_for_exit(layout, 2)
    lab.wait_until_free(layout)
    assert layout.latest_attempt() == 2
    assert record.reason == ("ValueError: no It crashed 2 times in a row at step 2, so it was not restarted again.")


def test_a_stop_while_a_restart_waits_ends_the_run(lab: Lab) -> None:
    from relight.supervision.stop import stop_run

    layout = lab.launch("code", "7", max_restarts=5).layout
    lab.wait_for_exit(layout, 1)
    wait_for(lambda: layout.latest_attempt() == 2)
    exits = stop_run(layout, wait_s=10.0)
    assert exits is not None
    assert exits.outcome == "stopped"
    lab.wait_until_free(layout)
    assert layout.latest_attempt() == exits.attempt


def test_the_exit_record_is_retried_until_the_disk_accepts_it(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    blocker = layout.attempt(1).exit
    blocker.mkdir()  # a rename onto a folder fails as a full disk does
    processes = lab.processes(layout)
    assert processes.trainer is not None
    kill(processes.trainer.pid)
    wait_for(lambda: not is_alive(processes.trainer))
    assert is_alive(processes.supervisor)
    assert lab.summary(layout).status is RunStatus.CRASHED
    wait_for(lambda: "cannot be written yet" in layout.attempt(1).supervisor_log.read_text())
    blocker.rmdir()
    wait_for(blocker.is_file, timeout_s=5.0)
    assert read_record(blocker, AttemptExit).signal == "SIGKILL"


def test_a_supervisor_that_fails_kills_its_trainer_and_records_the_error(lab: Lab) -> None:
    layout = lab.launch("crash-once", max_restarts=1).layout
    wait_for(lambda: layout.latest_attempt() == 2)
    wait_for(layout.attempt(2).processes.exists)
    layout.attempt(2).processes.unlink()
    layout.attempt(2).processes.mkdir()  # so that the trainer cannot be put on record
    record = lab.wait_for_exit(layout, 2)
    assert record.outcome == "crashed"
    assert record.reason.startswith("Its supervisor failed: IsADirectoryError")
    assert record.traceback is not None
    wait_for(lambda: not is_locked(layout))


def test_a_second_supervisor_for_a_training_run_is_refused(lab: Lab) -> None:
    import subprocess

    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    second = subprocess.run(
        [sys.executable, "-P", "-m", "relight.supervision", str(layout.folder), "1"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert "already training" in second.stderr
    assert lab.summary(layout).status is RunStatus.RUNNING
