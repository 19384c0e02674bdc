"""Ends the processes that an attempt left behind when its supervisor was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from relight.errors import RunBusy
from relight.runs.evidence import Evidence
from relight.runs.layout import RunLayout
from relight.runs.lock import read_taker
from relight.runs.process_identity import is_alive
from relight.runs.records import ProcessIdentity

LIFELINE_S = 10.0
"""A trainer that lost its supervisor normally saves and exits within about a second; after this long it is killed."""
_SEARCH_EVERY_S = 0.5
_COMMAND_CHARACTERS = 100


class Orphans:
    """The processes of a run whose supervisor is dead. A signal goes only to a process that was identified just before.

    The checkpoint writer is never touched: it makes durable what would otherwise be lost.
    """

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        self._trainer: ProcessIdentity | None = None
        self._found_at = 0.0
        self._search_at = 0.0

    def end(self, evidence: Evidence) -> None:
        """End the orphans that `evidence` shows. While you wait for them, call this repeatedly with new evidence.

        A trainer gets `LIFELINE_S` to save and end; its data loader workers are ended at once when it is dead.
        """
        trainer = evidence.processes.trainer if evidence.processes is not None else None
        if trainer is None or evidence.supervisor_alive:
            return
        now = time.monotonic()
        if trainer != self._trainer:
            self._trainer, self._found_at = trainer, now
        if is_alive(trainer):
            if now - self._found_at >= LIFELINE_S:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if os.getpgid(trainer.pid) == trainer.pid:
                        os.killpg(trainer.pid, signal.SIGKILL)
                    else:  # a script that was started by hand shares its group with other processes
                        os.kill(trainer.pid, signal.SIGKILL)
        elif now >= self._search_at:
            for pid in _find_workers(self._layout, group=trainer.pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._search_at = time.monotonic() + _SEARCH_EVERY_S


def find_lock_holders(layout: RunLayout) -> list[int]:
    """Return the pids of all other processes that have the run's lock open, among those that this user may inspect."""
    import psutil

    lock = os.path.realpath(layout.lock)
    found: list[int] = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(file.path == lock for file in process.open_files()):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def find_strangers(layout: RunLayout, evidence: Evidence) -> RunBusy | None:
    """Return the error that names the processes which keep the lock of a run that has ended; None without any.

    A script that starts a daemon by `fork` hands it the lock. A live process whose pid is in the lock file is no
    stranger: it is about to start the run's next attempt.
    """
    if evidence.supervisor_alive or evidence.trainer_alive or evidence.writer_alive:
        return None
    strangers = find_lock_holders(layout)
    if not strangers or read_taker(layout) in strangers:
        return None
    named = ", ".join(f"{pid} ({_word_command(pid)})" for pid in strangers)
    return RunBusy(
        f"Run {layout.run_id!r} has ended, but a process that its script left behind still holds its lock: {named}."
        f" End it (kill {' '.join(map(str, strangers))}), then resume the run."
    )


def _word_command(pid: int) -> str:
    import psutil

    try:
        return " ".join(" ".join(psutil.Process(pid).cmdline()).split())[:_COMMAND_CHARACTERS] or "without a command"
    except psutil.Error:
        return "which has just ended"


def _find_workers(layout: RunLayout, *, group: int) -> list[int]:
    """Return the lock holders in a dead trainer's process group: these can only be its data loader workers."""
    found: list[int] = []
    for pid in find_lock_holders(layout):
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == group:
                found.append(pid)
    return found
