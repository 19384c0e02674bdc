"""One training in a run folder: the lock holds as long as anybody who has it lives, and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relight.errors import RelightError, RunBusy
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock, is_locked
from relight.runs.process_identity import identify_process
from tests.runs.run_builder import RunBuilder, dead_process

HOLD = """
import sys; from pathlib import Path
from relight.runs.layout import RunLayout; from relight.runs.lock import RunLock
lock = RunLock.acquire(RunLayout(Path(sys.argv[1])))
print("locked", flush=True); sys.stdin.read()
"""
KEEP_INHERITED = "import sys; print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return RunLayout(tmp_path)


def _wait_until_free(layout: RunLayout) -> None:
    deadline = time.monotonic() + 5
    while is_locked(layout):
        assert time.monotonic() < deadline, "still locked"
        time.sleep(0.01)


def test_a_second_one_is_refused_by_a_sentence_with_run_and_pid(layout: RunLayout) -> None:
    with RunLock.acquire(layout):
        assert is_locked(layout)
        with pytest.raises(RunBusy, match=rf"Run '{layout.run_id}' is already training \(pid {os.getpid()}\)\. Stop"):
            RunLock.acquire(layout)
    assert not is_locked(layout)
    RunLock.acquire(layout).release()


def test_the_trainer_is_named_where_it_lives(
    tmp_path: Path, start_process: Callable[..., subprocess.Popen[str]]
) -> None:
    run = RunBuilder.create(tmp_path).start()
    trainer = start_process(KEEP_INHERITED)
    run.processes(dead_process(), identify_process(trainer.pid))
    with RunLock.acquire(run.layout), pytest.raises(RunBusy, match=rf"pid {trainer.pid}\b"):
        RunLock.acquire(run.layout)


def test_a_kill_frees_the_run(layout: RunLayout, start_process: Callable[..., subprocess.Popen[str]]) -> None:
    holder = start_process(HOLD, layout.folder)
    assert holder.stdout
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(RunBusy, match=str(holder.pid)):
        RunLock.acquire(layout)
    os.kill(holder.pid, signal.SIGKILL)
    RunLock.acquire(layout, timeout_s=5).release()


def test_a_child_that_inherited_it_keeps_the_run_locked(
    layout: RunLayout, start_process: Callable[..., subprocess.Popen[str]]
) -> None:
    lock = RunLock.acquire(layout)
    child = start_process(KEEP_INHERITED, pass_fds=(lock.fileno(),))
    assert child.stdout
    child.stdout.readline()
    lock.release()
    assert is_locked(layout), "release must not unlock it under the child"
    child.kill()
    child.wait()
    _wait_until_free(layout)


def test_a_child_that_was_not_given_it_does_not(
    layout: RunLayout, start_process: Callable[..., subprocess.Popen[str]]
) -> None:
    lock = RunLock.acquire(layout)
    child = start_process(KEEP_INHERITED)
    assert child.stdout
    child.stdout.readline()
    lock.release()
    assert not is_locked(layout)


def test_waiting_takes_over_from_one_that_ends(layout: RunLayout) -> None:
    first = RunLock.acquire(layout)
    threading.Timer(0.2, first.release).start()
    RunLock.acquire(layout, timeout_s=10).release()


def test_those_who_only_look_never_get_in_the_way(layout: RunLayout) -> None:
    RunLock.acquire(layout).release()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            is_locked(layout)

    watchers = [threading.Thread(target=look) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(20):
            RunLock.acquire(layout).release()
    finally:
        done.set()
        for watcher in watchers:
            watcher.join()


def test_a_run_that_never_was_is_free(tmp_path: Path) -> None:
    assert not is_locked(RunLayout(tmp_path / "none"))


def test_a_run_folder_that_is_gone_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RelightError, match="cannot be locked"):
        RunLock.acquire(RunLayout(tmp_path / "none"))


def test_garbage_in_the_lock_file_harms_nothing(layout: RunLayout) -> None:
    layout.lock.write_bytes(b"\xff garbage" * 100)
    first = RunLock.acquire(layout)
    layout.lock.write_bytes(b"\xff garbage")
    with pytest.raises(RunBusy, match=r"is already training\. Stop"):
        RunLock.acquire(layout)
    first.release()


def test_a_release_can_be_repeated(layout: RunLayout) -> None:
    lock = RunLock.acquire(layout)
    lock.release()
    lock.release()
    assert not is_locked(layout)
