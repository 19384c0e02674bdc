"""Signals as data: the death of a child and requests to end arrive in one place, without polling."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGINT)


class SignalInbox:
    """Turns signals into entries that `wait` returns. One for a process, made in its main thread.

    SIGCHLD only ends the wait. SIGHUP is ignored, and so it is in every process that is started from here: closing a
    terminal or a session ends nothing.
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whoever started this may have blocked some
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, *_ENDING):
            signal.signal(number, _note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def wait(self, timeout_s: float) -> list[signal.Signals]:
        """Requests to end (SIGTERM, SIGINT) that came since the last call; returns early when anything happens."""
        poller = select.poll()
        poller.register(self._reading, select.POLLIN)
        poller.poll(max(0.0, timeout_s) * 1000)
        received = b""
        with contextlib.suppress(BlockingIOError):
            received = os.read(self._reading, 4096)
        return [signal.Signals(number) for number in received if number in _ENDING]


def _note(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor has told already; a handler must be there for that."""
