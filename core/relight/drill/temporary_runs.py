"""The hidden runs folder of one drill: made, owned by a process, emptied and removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from relight.errors import DamagedFile, RelightError
from relight.runs.evidence import gather_evidence
from relight.runs.layout import DRILL_PREFIX, RunLayout
from relight.runs.lock import is_locked
from relight.runs.process_identity import current_process, is_alive
from relight.runs.record_file import read_record_if_there, write_record
from relight.runs.records import AttemptProcesses, ProcessIdentity
from relight.supervision.orphans import Orphans
from relight.supervision.stop import stop_run

_OWNER = ".owner.json"
"""Names the process that runs the drill, so that a later drill can recognize what a dead one left behind."""
_CLOSING_S = 60.0
_POLL_S = 0.02


@contextlib.contextmanager
def make_temporary_runs(folder: Path, *, keep: bool = False) -> Iterator[Path]:
    """Make a hidden runs folder in `folder`; on exit, end everything that runs in it and remove it, unless `keep`."""
    runs = Path(tempfile.mkdtemp(prefix=DRILL_PREFIX, dir=folder))
    owner = runs / _OWNER
    try:
        write_record(owner, current_process(), durable=False)
        yield runs
    finally:
        _end_runs(runs)
        owner.unlink(missing_ok=True)
        if not keep:
            shutil.rmtree(runs, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the runs folders of drills whose own process was killed, after ending what still runs in them."""
    for runs in folder.glob(f"{DRILL_PREFIX}*"):
        with contextlib.suppress(DamagedFile, OSError):
            owner = read_record_if_there(runs / _OWNER, ProcessIdentity)
            if owner is not None and not is_alive(owner):
                _end_runs(runs)
                shutil.rmtree(runs, ignore_errors=True)


def read_trainer(layout: RunLayout, attempt: int) -> ProcessIdentity | None:
    """Return the trainer process of an attempt; None before it has one."""
    processes = read_record_if_there(layout.attempt(attempt).processes, AttemptProcesses)
    return None if processes is None else processes.trainer


def send_signal(trainer: ProcessIdentity | None, number: signal.Signals) -> None:
    """Send a signal to a trainer if it is still alive."""
    if trainer is not None and is_alive(trainer):
        with contextlib.suppress(ProcessLookupError):
            os.kill(trainer.pid, number)


def _end_runs(runs: Path) -> None:
    for path in runs.iterdir():
        if path.is_dir():
            _end_run(RunLayout(path))


def _end_run(layout: RunLayout) -> None:
    """End a run's processes, halted ones too, and wait until they are gone."""
    attempt = layout.latest_attempt()
    trainer = read_trainer(layout, attempt)
    if is_locked(layout):
        with contextlib.suppress(RelightError):
            stop_run(layout, now=True)
        send_signal(trainer, signal.SIGKILL)
    orphans = Orphans(layout)
    deadline = time.monotonic() + _CLOSING_S
    while is_locked(layout) and time.monotonic() < deadline:
        orphans.end(gather_evidence(layout))
        time.sleep(_POLL_S)
