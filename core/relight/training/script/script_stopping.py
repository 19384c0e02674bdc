"""Every way in which a script is stopped: those of a task, and in a terminal Ctrl-C and closing it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import FrameType

from relight.runs.layout import RunLayout
from relight.training.stopping import Stop, Stopping, TrainingStopped

_log = logging.getLogger("relight")


class ScriptStopping(Stopping):
    """Knows whether a script should stop. In a terminal, a second Ctrl-C ends it at once, as people expect."""

    def __init__(self, layout: RunLayout, attempt: int, *, terminal: bool) -> None:
        super().__init__(layout, attempt)
        self.interruptible = True
        self.raised: Stop | None = None
        """The stop that ended the script's loops, if one has."""
        self.must_wait: Callable[[], bool] = lambda: False
        """Tells whether a stop has to wait for the next step edge, because the last one can no longer be saved."""
        self._terminal = terminal
        self._interrupts = 0
        self._waits = False

    def install(self, *, lifeline: int | None = None) -> None:
        """Handle the signals, in a terminal also SIGHUP, which closing it sends, unless `nohup` makes it ignored."""
        super().install(lifeline=lifeline)
        if self._terminal and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, self._on_signal)

    def _restore_default_signals(self) -> None:
        super()._restore_default_signals()
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
        if self.interruptible and not self._orphaned and self._explain().save and self.must_wait():
            if not self._waits:
                self._waits = True
                _log.warning("Weights are swapped at the moment, so the stop waits for the next step edge.")
            return
        try:
            super()._on_alarm(number, frame)
        except TrainingStopped as stopped:
            self.raised = stopped.stop
            raise
