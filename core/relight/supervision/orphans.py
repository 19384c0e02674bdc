"""Processes that an attempt left behind when its supervisor was killed, and how a resume gets past them."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from relight.runs.layout import RunLayout
from relight.runs.process_identity import is_alive
from relight.runs.records import AttemptProcesses, ProcessIdentity
from relight.supervision.attempt_history import read_or_none

LIFELINE_S = 10.0
"""A trainer that lost its supervisor saves and ends by itself within about a second; one that hangs is killed then."""
_SEARCH_EVERY_S = 0.5


class Leftovers:
    """What may still live of attempt `number`. Signals go only to processes whose identity was checked right before."""

    def __init__(self, layout: RunLayout, number: int) -> None:
        self._layout = layout
        self._attempt = layout.attempt(number)
        self._since = time.monotonic()
        self._search_at = self._since

    @property
    def supervisor_pid(self) -> int | None:
        """Pid of the attempt's supervisor while it lives."""
        processes = self._read_processes()
        return _pid_if_alive(processes.supervisor if processes else None)

    @property
    def trainer_pid(self) -> int | None:
        """Pid of the attempt's trainer while it lives."""
        processes = self._read_processes()
        return _pid_if_alive(processes.trainer if processes else None)

    @property
    def writer_pid(self) -> int | None:
        """Pid of the checkpoint writer, which finishes what the trainer had staged, while it lives."""
        return _pid_if_alive(read_or_none(self._attempt.writer, ProcessIdentity))

    def end_orphans(self) -> None:
        """Call this again and again while waiting: ends, in time, what of the attempt has no supervisor any more.

        The writer is never touched: it makes durable what would otherwise be lost.
        """
        processes = self._read_processes()
        if processes is None or processes.trainer is None or is_alive(processes.supervisor):
            return
        trainer, now = processes.trainer, time.monotonic()
        if is_alive(trainer):
            if now - self._since >= LIFELINE_S:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if os.getpgid(trainer.pid) == trainer.pid:
                        os.killpg(trainer.pid, signal.SIGKILL)
                    else:  # a script that somebody started by themselves
                        os.kill(trainer.pid, signal.SIGKILL)
        elif now >= self._search_at:
            for pid in _find_workers(self._layout, group=trainer.pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._search_at = time.monotonic() + _SEARCH_EVERY_S

    def _read_processes(self) -> AttemptProcesses | None:
        """Anew each time: a supervisor that is just starting has not written everything yet."""
        return read_or_none(self._attempt.processes, AttemptProcesses)


def find_lock_holders(layout: RunLayout) -> list[int]:
    """Pids of all processes but this one that have the run's lock open, as far as this user may look at them."""
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


def _find_workers(layout: RunLayout, *, group: int) -> list[int]:
    """Holders of the lock in a dead trainer's process group: its data loader workers, and nobody else."""
    found: list[int] = []
    for pid in find_lock_holders(layout):
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == group:
                found.append(pid)
    return found


def _pid_if_alive(identity: ProcessIdentity | None) -> int | None:
    return identity.pid if identity is not None and is_alive(identity) else None
