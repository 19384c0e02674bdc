"""Runs of a stand-in script under a real supervisor. Every process they start ends with its test."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from relight.overview.summary import RunSummary, summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.process_identity import is_alive
from relight.runs.progress import read_progress
from relight.runs.record_file import read_record, read_record_if_there
from relight.runs.records import AttemptExit, AttemptProcesses, PreparedTask, ProcessIdentity, TaskReference
from relight.supervision.attempt_start import Launched
from relight.supervision.launch import launch_run
from relight.supervision.resume import resume_run

STAND_IN = Path(__file__).with_name("stand_in.py")
TIMEOUT_S = 30.0

T = TypeVar("T")


def wait_for(what: Callable[[], T | None], *, timeout_s: float = TIMEOUT_S, why: object = "") -> T:
    """Poll until `what` returns something true, and return it."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = what()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"nothing happened within {timeout_s} s {why}"
        time.sleep(0.01)


def stand_in(*behavior: str, **more: Any) -> PreparedTask:
    """Return the stand-in, a training script without torch, with the given behavior."""
    task = TaskReference(kind="script", name=STAND_IN.name, path=str(STAND_IN), arguments=behavior, **more)
    return PreparedTask(task)


class Lab:
    """A runs folder with stand-in runs, and questions that tests ask about them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def launch(self, *behavior: str, task: PreparedTask | None = None, **more: Any) -> Launched:
        """Launch the stand-in."""
        return launch_run(self.folder, task or stand_in(*behavior), **more)

    def resume(self, layout: RunLayout, *behavior: str, **more: Any) -> Launched:
        """Resume a run of the stand-in, with another behavior from now on."""
        written = layout.folder / f".behavior-{threading.get_ident()}"
        written.write_text(json.dumps(behavior))
        written.replace(layout.folder / "behavior.json")
        return resume_run(layout, **more)

    def processes(self, layout: RunLayout, number: int | None = None) -> AttemptProcesses:
        """Wait until supervisor and trainer of the attempt are on record, and return them."""
        attempt = layout.attempt(number or layout.latest_attempt())

        def find() -> AttemptProcesses | None:
            found = read_record_if_there(attempt.processes, AttemptProcesses)
            return found if found is not None and found.trainer is not None else None

        return wait_for(find, why=self.describe(layout))

    def trainer(self, layout: RunLayout) -> int:
        trainer = self.processes(layout).trainer
        assert trainer is not None
        return trainer.pid

    def wait_for_step(self, layout: RunLayout, step: int) -> None:
        def there() -> bool:
            progress = read_progress(layout.attempt(layout.latest_attempt()).progress)
            return progress is not None and progress.step >= step

        wait_for(there, why=self.describe(layout))

    def wait_for_exit(
        self, layout: RunLayout, number: int | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> AttemptExit:
        attempt = layout.attempt(number or layout.latest_attempt())
        wait_for(attempt.exit.exists, timeout_s=timeout_s, why=self.describe(layout))
        return read_record(attempt.exit, AttemptExit)

    def wait_until_free(self, layout: RunLayout) -> None:
        """Wait until supervisor and trainer of the newest attempt have ended."""
        processes = read_record(layout.attempt(layout.latest_attempt()).processes, AttemptProcesses)
        wait_for(lambda: not is_alive(processes.supervisor) and not is_alive(processes.trainer))

    def summary(self, layout: RunLayout) -> RunSummary:
        return summarize_run(layout)

    def describe(self, layout: RunLayout) -> str:
        attempt = layout.attempt(layout.latest_attempt())
        return "".join(
            f"\n== {path.name}\n{_text(path)}" for path in (attempt.log, attempt.supervisor_log, attempt.exit)
        )

    def end_everything(self) -> None:
        """Kill all live processes: supervisors first, because they would restart their trainers."""
        for layout in list_layouts(self.folder) if self.folder.exists() else []:
            for number in layout.list_attempts():
                for identity in reversed(_identities(layout.attempt(number))):
                    if is_alive(identity):
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(os.getpgid(identity.pid), signal.SIGKILL)


def _identities(attempt: AttemptLayout) -> list[ProcessIdentity]:
    found: list[ProcessIdentity] = []
    with contextlib.suppress(Exception):
        processes = read_record(attempt.processes, AttemptProcesses)
        found += [identity for identity in (processes.trainer, processes.supervisor) if identity is not None]
    with contextlib.suppress(Exception):
        found.append(read_record(attempt.writer, ProcessIdentity))
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2000))
            return file.read(2000).decode(errors="replace")
    except OSError:
        return "-"


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Return whether the process is alive; a zombie is not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "a 0'; echo x ünï")
    yield made
    made.end_everything()
