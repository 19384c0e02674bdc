"""Signals as data: a wait that the death of a child or a request to end cuts short, without polling."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Sequence
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGINT)
"""The signals that ask a supervisor to end; others leave it alone or kill it."""


class SignalInbox:
    """Collects signals, which `wait` returns. Create one per process, in its main thread.

    SIGCHLD only ends a wait. SIGHUP is ignored here and, by inheritance, in every process started from here, so that
    closing a terminal or a session ends nothing.
    """

    def __init__(self, *, ending: Sequence[signal.Signals] = _ENDING) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._ending = frozenset(ending)
        for number in (signal.SIGCHLD, *ending):
            signal.signal(number, _note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # those that were blocked until now arrive in this inbox

    def wait(self, timeout_s: float) -> list[signal.Signals]:
        """Wait for a signal, at most `timeout_s`; return the requests to end that came since the last call."""
        poller = select.poll()
        poller.register(self._reading, select.POLLIN)
        poller.poll(max(0.0, timeout_s) * 1000)
        received = b""
        with contextlib.suppress(BlockingIOError):
            received = os.read(self._reading, 4096)
        return [signal.Signals(number) for number in received if number in self._ending]


def _note(number: int, frame: FrameType | None) -> None:
    """Do nothing: Python writes to the wake-up descriptor only for signals that have a handler."""
