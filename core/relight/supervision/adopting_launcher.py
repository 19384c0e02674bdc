"""Watching a trainer that is already running: a script that you started yourself with `python`."""

from __future__ import annotations

import contextlib
import os
import signal

from relight.runs.layout import AttemptLayout
from relight.runs.process_identity import identify_process, is_alive
from relight.runs.records import ProcessIdentity, TaskReference
from relight.supervision.launcher import ProcessEnd


class AdoptedTrainer:
    """A live process that is not a child of the supervisor. The kernel does not tell us how it ends.

    `lifeline` is the writing end of the pipe that tells the process when its supervisor is dead.
    """

    def __init__(self, pid: int, *, lifeline: int) -> None:
        """Raises `ProcessLookupError` when the process has already ended."""
        self.pid = pid
        self.identity: ProcessIdentity | None = identify_process(pid)
        self._lifeline = lifeline

    def send(self, which: signal.Signals) -> None:
        """Send a signal to that process only: its data loader workers end when it does."""
        if is_alive(self.identity):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, which)

    def poll(self) -> ProcessEnd | None:
        """Return an end without a code once the process is gone, or None while it lives."""
        if is_alive(self.identity):
            return None
        with contextlib.suppress(OSError):
            os.close(self._lifeline)
        return ProcessEnd()


class AdoptingLauncher:
    """Starts nothing: the trainer of the attempt is a process that already runs."""

    def __init__(self, trainer: AdoptedTrainer) -> None:
        self._trainer = trainer

    def start(self, task: TaskReference, attempt: AttemptLayout) -> AdoptedTrainer:
        """Return the adopted trainer."""
        return self._trainer
