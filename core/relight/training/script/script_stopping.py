"""Every way in which a script is stopped: as a task is, by signals that it handles itself, by Ctrl-C in a terminal."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import select
import signal
import traceback
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

from relight.runs.layout import RunLayout
from relight.training.stopping import LOOK_EVERY_S, Stop, Stopping, TrainingStopped

_ASKS_TO_END = frozenset(
    {
        signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU,
    }
)  # fmt: skip
"""Signals that schedulers, shells and people send to a training that is to end."""
_READ_BYTES = 65_536
_log = logging.getLogger("relight")


class ScriptStopping(Stopping):
    """Knows whether a script should stop. In a terminal, a second Ctrl-C ends it at once, as people expect.

    A signal for which the script has its own handler is left to the script: it may finish its epoch, requeue its job
    and break out of its loops. `told` then says that a signal is the reason.
    """

    def __init__(self, layout: RunLayout, attempt: int, *, terminal: bool) -> None:
        super().__init__(layout, attempt)
        self.interruptible = True
        self.raised: Stop | None = None
        """The stop that ended the script's loops, if one has."""
        self.must_wait: Callable[[], bool] = lambda: False
        """Tells whether a stop has to wait for the next step edge, because the last one can no longer be saved."""
        self.has_ranks = False
        """Whether this is one of several ranks: then a signal that the script handles itself is only the script's."""
        self.under_torchrun = False
        """Whether a torchrun of the user's own has started this process: it may start it again after a failure."""
        self._terminal = terminal
        self._interrupts = 0
        self._waits = False
        self._noted: int | None = None
        self._noted_fd = -1
        self._arrivals = select.poll()
        self._bodies = 0
        self._saved = False
        self._note_at = 0.0
        self._earlier_alarm: Any = None

    def install(self, *, lifeline: int | None = None) -> None:
        """Handle the signals, in a terminal also SIGHUP, which closing it sends, unless `nohup` makes it ignored."""
        self._earlier_alarm = signal.getsignal(signal.SIGALRM)
        super().install(lifeline=lifeline)
        if self._terminal and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, self._on_signal)
        self._note_arrivals()

    def told(self) -> Stop | None:
        """Return a stop if a handler of the script's own has received a signal that asks a training to end."""
        if self.has_ranks:
            return None
        if self._arrivals.poll(0):  # a read that finds nothing raises, and takes ten times as long
            with contextlib.suppress(OSError):
                for number in os.read(self._noted_fd, _READ_BYTES):
                    if number in _ASKS_TO_END and signal.getsignal(number) != self._on_signal:
                        self._noted, self._bodies = number, 0
        return None if self._noted is None else self._explain(signal.Signals(self._noted).name)

    def owes_checkpoint(self, now: float, *, look: bool) -> bool:
        """Tell, once, that a signal has arrived which the script handles itself: its process may soon be killed.

        Without `look` the pipe is read every 0.2 s only.
        """
        if self._saved or (not look and 0.0 < self._note_at - now <= LOOK_EVERY_S):
            return False
        self._note_at = now + LOOK_EVERY_S
        self._saved = self.told() is not None
        return self._saved

    def note_body(self) -> None:
        """Note that a body of the script's outermost loop over epochs has ended.

        A script that was told to end does so by the end of its epoch. If it trains through two more, the signal meant
        something else, such as "write a report".
        """
        if self.told() is not None:
            self._bodies += 1
            if self._bodies > 2:
                self._noted, self._bodies, self._saved = None, 0, False

    def is_raised_by_handler(self, error: BaseException) -> bool:
        """Tell whether `error`, or one that it followed from, was raised in the script's handler for that signal."""
        code = None if self._noted is None else _find_code(signal.getsignal(self._noted))
        if code is None:
            return False
        return any(
            frame.f_code is code for each in _follow(error) for frame, _ in traceback.walk_tb(each.__traceback__)
        )

    def _handle(self, number: signal.Signals) -> None:
        handler = signal.getsignal(number)
        if not callable(handler) or handler is signal.default_int_handler:
            super()._handle(number)

    def _note_arrivals(self) -> None:
        """Let Python write the number of each signal that it handles to a pipe, whichever function handles it."""
        noted_fd, noting_fd = os.pipe()
        for descriptor in (noted_fd, noting_fd):
            os.set_blocking(descriptor, False)
        earlier = signal.set_wakeup_fd(noting_fd, warn_on_full_buffer=False)
        if earlier >= 0:  # an event loop of the script's needs its own
            signal.set_wakeup_fd(earlier)
            os.close(noted_fd)
            os.close(noting_fd)
        else:
            self._noted_fd = noted_fd
            self._arrivals.register(noted_fd, select.POLLIN)

    def _restore_default_signals(self) -> None:
        super()._restore_default_signals()
        if self._noted_fd >= 0:
            with contextlib.suppress(ValueError):  # not the main thread: this child handles no signals
                signal.set_wakeup_fd(-1)
        if signal.getsignal(signal.SIGHUP) == self._on_signal:  # only the script itself reacts to a closed terminal
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._terminal and number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
            if not self.building:
                _log.warning("Stopping at the next step edge, with a checkpoint. Press Ctrl-C again to end it at once.")
        super()._on_signal(number, frame)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if self.interruptible and not self._orphaned and self._explain(self._signal).save and self.must_wait():
            if not self._waits:
                self._waits = True
                _log.warning("Weights have changed since the last step edge, so the stop waits for the next one.")
            return
        try:
            super()._on_alarm(number, frame)
        except TrainingStopped as stopped:
            self.raised = stopped.stop
            raise
        if self._signal is None and not self._orphaned and callable(self._earlier_alarm):
            self._earlier_alarm(number, frame)  # the script's own alarm


def _find_code(handler: Any) -> CodeType | None:
    """Return the code of a signal handler, which may be a function, a method, a partial or a callable object."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    function = handler if inspect.isroutine(handler) else getattr(type(handler), "__call__")  # noqa: B004, B009
    return getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)


def _follow(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and those that it followed from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
