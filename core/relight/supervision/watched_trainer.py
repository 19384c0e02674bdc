"""A trainer that nobody here has started: a script that a person runs by themselves, watched by its identity."""

from __future__ import annotations

import contextlib
import os
import signal

from relight.runs.process_identity import identify_process, is_alive
from relight.runs.records import ProcessIdentity
from relight.supervision.exit_record import ProcessEnd


class WatchedTrainer:
    """A living process that is no child of ours. How it ended only itself can say.

    `lifeline` is the writing end of the pipe by which it learns that this supervisor is dead.
    """

    def __init__(self, pid: int, *, lifeline: int) -> None:
        """Raises `ProcessLookupError` when it is gone already."""
        self.pid = pid
        self.identity: ProcessIdentity | None = identify_process(pid)
        self._lifeline = lifeline

    def send(self, which: signal.Signals) -> None:
        """Send a signal to that very process; those that load its data end with it."""
        if is_alive(self.identity):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, which)

    def poll(self) -> ProcessEnd | None:
        """How it ended, as far as that can be known; None while it lives."""
        if is_alive(self.identity):
            return None
        with contextlib.suppress(OSError):
            os.close(self._lifeline)
        return ProcessEnd()
