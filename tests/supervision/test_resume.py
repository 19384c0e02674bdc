"""Resuming a dead run: once, from the right checkpoint, and never next to a live trainer."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest

from relight.errors import RelightError, RunBusy
from relight.runs.catalog import create_run
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock, is_locked
from relight.runs.process_identity import is_alive
from relight.runs.record_file import read_record, write_record
from relight.runs.records import AttemptStart, StopRequest
from relight.runs.status import RunStatus
from relight.supervision import orphans, resume
from relight.supervision.attempt_start import Launched, begin_attempt
from supervision.conftest import Lab, kill, lives, stand_in, wait_for
from tests.opened_files import count_reads
from tests.patience import stretch

pytestmark = pytest.mark.processes


def dead_run(lab: Lab, *arguments: str) -> RunLayout:
    """A run whose trainer was killed."""
    layout = lab.launch(*(arguments or ("train", "10000"))).layout
    lab.wait_for_step(layout, 1)
    kill(lab.trainer(layout))
    lab.wait_for_exit(layout)
    return layout


def test_a_killed_run_trains_again_in_the_next_attempt(lab: Lab) -> None:
    layout = dead_run(lab)
    launched = lab.resume(layout, "train", "3")
    assert (launched.attempt, launched.created) == (2, True)
    start = read_record(layout.attempt(2).start, AttemptStart)
    assert (start.reason, start.from_sequence, start.from_step) == ("resume", None, 0)
    assert lab.wait_for_exit(layout, 2).outcome == "finished"


def test_resuming_a_training_run_is_refused_at_once_with_its_pid(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    begun = time.monotonic()
    with pytest.raises(RunBusy, match=f"pid {lab.trainer(layout)}"):
        lab.resume(layout, "train")
    assert time.monotonic() - begun < stretch(5.0)
    assert layout.list_attempts() == [1]


def test_a_daemon_of_the_script_that_holds_the_lock_is_named_at_once(lab: Lab) -> None:
    layout = dead_run(lab, "daemon", "10000")
    lab.wait_until_free(layout)
    (daemon,) = orphans.find_lock_holders(layout)
    begun = time.monotonic()
    try:
        with pytest.raises(RunBusy, match=rf"still holds its lock: {daemon} \(sleep 600\)\. End it \(kill {daemon}\)"):
            lab.resume(layout, "train", "3")
        assert time.monotonic() - begun < stretch(10.0)
    finally:
        kill(daemon)
    lab.resume(layout, "train", "3")
    assert lab.wait_for_exit(layout, 2).outcome == "finished"


def test_a_finished_run_has_nothing_to_resume(lab: Lab) -> None:
    layout = lab.launch("train", "1").layout
    lab.wait_for_exit(layout)
    with pytest.raises(RelightError, match="has finished"):
        lab.resume(layout, "train")


def test_a_finished_script_that_stopped_early_is_not_sent_to_its_last_step(lab: Lab) -> None:
    layout = lab.launch("train", "3").layout
    exit = layout.attempt(1).exit
    write_record(exit, msgspec.structs.replace(lab.wait_for_exit(layout), step=2))
    with pytest.raises(RelightError, match=r"left its loops at step 2 of 3.*Name an earlier checkpoint"):
        resume.resume_run(layout)


def test_one_of_several_simultaneous_resumes_starts_and_the_others_are_refused(lab: Lab) -> None:
    layout = dead_run(lab)
    results: list[Launched | RunBusy] = []

    def click() -> None:
        try:
            results.append(lab.resume(layout, "train", "10000"))
        except RunBusy as error:
            results.append(error)

    threads = [threading.Thread(target=click) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started = [result for result in results if isinstance(result, Launched)]
    assert len(results) == 5
    assert [launched.attempt for launched in started] == [2]
    assert layout.list_attempts() == [1, 2]


def test_an_attempt_that_began_and_ended_while_this_resume_waited_is_not_followed_by_another(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = dead_run(lab)
    wait = resume.lock_when_free

    def wait_while_another_resumes(layout: RunLayout, number: int, *, token: str | None) -> RunLock:
        begin_attempt(layout, AttemptStart(attempt=2, time_s=0.0, reason="resume"))
        return wait(layout, number, token=token)

    monkeypatch.setattr(resume, "lock_when_free", wait_while_another_resumes)
    with pytest.raises(RunBusy, match="as attempt 2"):
        lab.resume(layout, "train")
    assert layout.list_attempts() == [1, 2]


def test_the_same_token_again_is_the_attempt_that_it_started(lab: Lab) -> None:
    layout = dead_run(lab)
    results: list[Launched] = []
    threads = [
        threading.Thread(target=lambda: results.append(lab.resume(layout, "train", "10000", token="click")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(launched.created for launched in results) == [False, False, False, True]
    assert {launched.attempt for launched in results} == {2}
    assert lab.resume(layout, "train", token="click") == Launched(layout, 2, created=False)


def test_a_resume_right_after_the_supervisor_was_killed_waits_for_the_trainer_to_end(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    processes = lab.processes(layout)
    kill(processes.supervisor.pid)
    launched = lab.resume(layout, "train", "10000")
    assert launched.attempt == 2
    assert not is_alive(processes.trainer)


def test_an_orphan_that_ignores_its_life_line_is_killed(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "LIFELINE_S", 0.5)
    ready = tmp_path / "ready"
    layout = lab.launch("undead", str(ready)).layout
    processes = lab.processes(layout)
    wait_for(ready.exists)
    kill(processes.supervisor.pid)
    assert lab.resume(layout, "train", "10000").attempt == 2
    assert not is_alive(processes.trainer)


def test_workers_of_a_trainer_killed_with_its_supervisor_do_not_block_a_resume(lab: Lab, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    layout = lab.launch("workers", str(note)).layout
    lab.wait_for_step(layout, 1)
    processes = lab.processes(layout)
    assert processes.trainer is not None
    worker = int(note.read_text())
    os.kill(processes.supervisor.pid, signal.SIGSTOP)  # it must not notice the end of its trainer
    kill(processes.trainer.pid)
    kill(processes.supervisor.pid)
    wait_for(lambda: not is_alive(processes.supervisor))
    assert lives(worker)
    assert is_locked(layout)
    assert lab.resume(layout, "train", "10000").attempt == 2
    assert not lives(worker)


def test_a_resume_waits_until_the_writer_of_a_killed_trainer_is_done(lab: Lab, tmp_path: Path) -> None:
    done = tmp_path / "done"
    layout = lab.launch("writer", str(done)).layout
    assert lab.wait_for_exit(layout).signal == "SIGKILL"
    assert not done.exists()
    assert lab.summary(layout).pids.writer is not None
    assert lab.resume(layout, "train", "2").attempt == 2
    assert done.exists()


def test_a_resume_keeps_the_number_of_restarts_unless_given(lab: Lab) -> None:
    layout = lab.launch("train", "10000", max_restarts=4).layout
    lab.wait_for_step(layout, 1)
    from relight.supervision.stop import stop_run

    stop_run(layout, wait_s=30)
    lab.resume(layout, "train", "10000")
    assert read_record(layout.attempt(2).start, AttemptStart).max_restarts == 4


def test_a_stop_request_of_an_earlier_attempt_does_not_stop_the_next(lab: Lab) -> None:
    layout = dead_run(lab)
    write_record(layout.stop_request, StopRequest(attempt=2, time_s=0.0))  # even one that names the next attempt
    lab.resume(layout, "train", "5")
    assert lab.wait_for_exit(layout, 2).outcome == "finished"


def test_old_temporary_files_that_a_kill_left_are_removed(lab: Lab) -> None:
    layout = dead_run(lab)
    old = layout.attempts / ".0007-abcd.tmp"
    old.mkdir()
    (old / "start.json").touch()
    os.utime(old, (0, 0))
    young = layout.folder / ".stop.json.1-ab.tmp"
    young.touch()
    lab.resume(layout, "train", "10000")
    assert not old.exists()
    assert young.exists()


def test_a_run_that_was_created_but_never_started_can_be_resumed(lab: Lab) -> None:
    layout = create_run(lab.folder, stand_in("train")).layout
    assert lab.resume(layout, "train", "2").attempt == 1
    assert lab.wait_for_exit(layout).outcome == "finished"


@pytest.mark.parametrize("token", [None, "press"])
def test_a_resume_reads_each_record_once(lab: Lab, token: str | None) -> None:
    layout = dead_run(lab)
    lab.wait_until_free(layout)
    with count_reads(layout.folder) as reads:
        lab.resume(layout, "train", "1", token=token)
    lab.wait_for_exit(layout, 2)
    lab.wait_until_free(layout)
    with count_reads(layout.folder) as later:
        lab.resume(layout, "train", "1", token="another", from_="latest")
    for number, counted in ((1, reads), (2, later)):
        names = ["start.json", "processes.json", "exit.json", "progress.bin"]
        expected = {"run.json", *(f"attempts/{number:04d}/{name}" for name in names)}
        assert {path: counted[path] for path in expected} == dict.fromkeys(expected, 1)
        assert max(counted.values()) == 1, counted


@pytest.mark.parametrize("name", ["start", "processes", "exit", "outcome", "progress"])
@pytest.mark.parametrize("damage", [b"", b"{", b"\0\xff garbage"])
def test_damage_to_any_file_of_the_last_attempt_does_not_prevent_a_resume(lab: Lab, name: str, damage: bytes) -> None:
    layout = lab.launch("crash", "1").layout
    lab.wait_for_exit(layout)
    lab.wait_until_free(layout)
    getattr(layout.attempt(1), name).write_bytes(damage)
    assert lab.resume(layout, "train", "1").attempt == 2
    assert lab.wait_for_exit(layout, 2).outcome == "finished"
    assert lab.summary(layout).status is RunStatus.FINISHED
