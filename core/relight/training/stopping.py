"""Every way in which a training is stopped: a request in the run folder, a signal, the supervisor's death."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

from relight.runs.layout import RunLayout
from relight.runs.records import StopRequest
from relight.runs.stop_request import read_stop_request

LOOK_EVERY_S = 0.2
EDGE_WITHIN_S = 3.0
"""How long a signal waits for a step edge before it interrupts the current step."""
_ORPHAN_EDGE_WITHIN_S = 0.5
_ORPHAN_LIFE_S = 1.0
_RETRY_S = 0.25
_SAVE_WITHIN_S = 60.0
_LOST_EXIT_CODE = 4


@dataclass(frozen=True)
class Stop:
    """Why a training stops, and whether it saves a checkpoint first."""

    event: str
    """What happened, as a clause that " at step 412." can follow."""
    why: Literal["stop", "signal"] = "stop"
    """The reason that the checkpoint records."""
    save: bool = True
    orphaned: bool = False
    signal: str | None = None
    """Name of the signal that caused the stop; None if a request or the supervisor's death did."""


class TrainingStopped(SystemExit):
    """Raised in the training loop to end it, even in the middle of a step.

    It is not an `Exception`, so no `except Exception` in a task or a script swallows it.
    """

    def __init__(self, stop: Stop) -> None:
        super().__init__(130)
        self.stop = stop


class Stopping:
    """Knows whether this attempt should stop.

    The loop asks at every step edge; `interruptible` says whether a signal may end it elsewhere too. If a signal
    arrives and no step edge follows soon, the current step is interrupted where that is exact, and the state of the
    last finished step is saved instead of nothing.
    """

    def __init__(self, layout: RunLayout, attempt: int) -> None:
        self.interruptible = False
        self.building = True
        """No step edge can come yet, so a signal waits for none."""
        self.urgent = False
        """Whether the training is to stop, and cannot wait for the next look at the run's folder."""
        self.together: Callable[[Stop | None], Stop | None] | None = None
        """Turns this process's reason to stop into that of all ranks. None for one process, or to act alone."""
        self._layout = layout
        self._attempt = attempt
        self._signal: str | None = None
        self._orphaned = False
        self._handled = threading.Event()
        self._look_at = 0.0

    def install(self, *, lifeline: int | None = None) -> None:
        """Handle SIGTERM and SIGINT, and watch the life line: end of file on it means that the supervisor is dead."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handle(number)
        signal.signal(signal.SIGALRM, self._on_alarm)
        os.register_at_fork(after_in_child=self._restore_default_signals)
        if lifeline is not None:
            threading.Thread(
                target=self._watch_lifeline, args=(lifeline,), daemon=True, name="relight-lifeline"
            ).start()

    def check(self, now: float) -> Stop | None:
        """Return the reason to stop, if there is one. Cheap at every step edge: it reads the folder every 0.2 s."""
        own = self.find_own(now)
        return own if self.together is None else self.together(own)

    def find_own(self, now: float) -> Stop | None:
        """Return this process's own reason to stop, if there is one."""
        if self.urgent:
            return self._explain(self._signal)
        if 0.0 < self._look_at - now <= LOOK_EVERY_S:  # a clock that was set back must not delay a stop
            return None
        self._look_at = now + LOOK_EVERY_S
        request = self._read_request()
        if request is None:
            return None
        return Stop("Stopped by request", save=not request.now)

    @property
    def is_ending(self) -> bool:
        """Whether the attempt is being ended."""
        return self._handled.is_set()

    def begin_saving(self) -> None:
        """Note that the stop is being handled: from now on nothing interrupts it, and an orphan gets time to save."""
        self.interruptible = False
        self.together = None
        self._set_alarm(0)
        self._handled.set()

    @contextlib.contextmanager
    def allow_interruption(self) -> Iterator[None]:
        """Let a signal interrupt the block, which must not change the training state."""
        self.interruptible = True
        try:
            yield
        finally:
            self.interruptible = False

    def _handle(self, number: signal.Signals) -> None:
        """Handle a signal that asks the training to end."""
        signal.signal(number, self._on_signal)

    def _set_alarm(self, delay_s: float, again_s: float = 0.0) -> None:
        """Set the timer of SIGALRM, or clear it with 0. Leave it alone if something else handles that signal."""
        if signal.getsignal(signal.SIGALRM) == self._on_alarm:
            signal.setitimer(signal.ITIMER_REAL, delay_s, again_s)

    def _restore_default_signals(self) -> None:
        """Let signals end a process that the task forks: it is not a trainer, so it has nothing to save."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            if signal.getsignal(number) in (self._on_signal, self._on_alarm):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def _explain(self, name: str | None) -> Stop:
        if self._orphaned:
            return Stop("Stopped because the supervisor died,", why="signal", orphaned=True)
        request = self._read_request()
        if request is not None:
            return Stop("Stopped by request", why="signal", save=not request.now)
        return Stop(f"Stopped by {name}", why="signal", signal=name)

    def _read_request(self) -> StopRequest | None:
        return read_stop_request(self._layout, attempt=self._attempt)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        self.urgent = True
        request = self._read_request()
        hurry = self.building or (request is not None and request.now)
        if not self._handled.is_set():
            self._set_alarm(0.001 if hurry else EDGE_WITHIN_S, _RETRY_S)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        # A rank that left a step alone would leave the others waiting for it.
        if self.interruptible and self.together is None and not self._handled.is_set() and self.urgent:
            self.interruptible = False
            raise TrainingStopped(self._explain(self._signal))

    def _watch_lifeline(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            while os.read(descriptor, 1):
                pass
        self._orphaned = self.urgent = True
        deadline = time.monotonic() + _ORPHAN_LIFE_S
        if not self._handled.wait(_ORPHAN_EDGE_WITHIN_S):
            signal.pthread_kill(_main_thread_id(), signal.SIGALRM)
        if not self._handled.wait(max(0.0, deadline - time.monotonic())):
            os._exit(_LOST_EXIT_CODE)
        time.sleep(_SAVE_WITHIN_S)
        os._exit(_LOST_EXIT_CODE)


def _main_thread_id() -> int:
    identity: Any = threading.main_thread().ident
    return int(identity)
