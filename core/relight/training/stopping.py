"""Every way in which a training is told to stop: a request in the run folder, a signal, the supervisor's death."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

from relight.runs.layout import RunLayout
from relight.runs.records import StopRequest
from relight.runs.stop_request import read_stop_request

LOOK_EVERY_S = 0.2
EDGE_WITHIN_S = 3.0
"""After a signal, how long a step edge is waited for before the step under way is given up."""
ORPHAN_EDGE_WITHIN_S = 0.5
ORPHAN_LIFE_S = 1.0
_RETRY_S = 0.25
_SAVE_WITHIN_S = 60.0
_LOST_EXIT_CODE = 4


@dataclass(frozen=True)
class Stop:
    """Why to stop. `save`: with a checkpoint. `why` is the checkpoint's reason."""

    sentence: str
    why: Literal["stop", "signal"] = "stop"
    save: bool = True
    orphaned: bool = False


class TrainingStopped(SystemExit):
    """Raised in the training loop to end it, in a step's middle too: no `except Exception` of anybody's holds it up."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(130)
        self.stop = stop


class Stopping:
    """Knows whether this attempt should stop. The loop asks at step edges; `interruptible` says where else it may end.

    When a signal came and no step edge follows soon, the step under way is interrupted where that is exact: the state
    of the last finished step is saved instead of nothing.
    """

    def __init__(self, layout: RunLayout, attempt: int) -> None:
        self.interruptible = False
        self.building = True
        """No step edge can come yet, so there is nothing to wait for."""
        self._layout = layout
        self._attempt = attempt
        self._signal: str | None = None
        self._orphaned = False
        self._handled = threading.Event()
        self._look_at = 0.0

    def install(self, *, lifeline: int | None = None) -> None:
        """Take over SIGTERM and SIGINT, and watch the life line: its end of file means that the supervisor is dead."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_alarm)
        os.register_at_fork(after_in_child=self._let_child_end)
        if lifeline is not None:
            threading.Thread(
                target=self._watch_lifeline, args=(lifeline,), daemon=True, name="relight-lifeline"
            ).start()

    def check(self, now: float) -> Stop | None:
        """Return why to stop, if so. Cheap enough for every step edge: the folder is looked at every 0.2 s."""
        if self._signal is not None or self._orphaned:
            return self._explain()
        if 0.0 < self._look_at - now <= LOOK_EVERY_S:  # a clock that was set back must not hold up a stop
            return None
        self._look_at = now + LOOK_EVERY_S
        request = self._read_request()
        if request is None:
            return None
        return Stop("A person asked it to stop.", save=not request.now)

    def begin_saving(self) -> None:
        """Say that the stop is being dealt with: from now on nothing interrupts it, and an orphan has time to save."""
        self.interruptible = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._handled.set()

    @contextlib.contextmanager
    def allow_interruption(self) -> Iterator[None]:
        """Let a signal end what runs inside, which must not change the training state."""
        self.interruptible = True
        try:
            yield
        finally:
            self.interruptible = False

    def _let_child_end(self) -> None:
        """Give a process that the task forks its own reaction to signals: it is no trainer that could save."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            if signal.getsignal(number) in (self._on_signal, self._on_alarm):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def _explain(self) -> Stop:
        if self._orphaned:
            return Stop("The supervisor ended, and a training does not outlive it.", why="signal", orphaned=True)
        request = self._read_request()
        if request is not None:
            return Stop("A person asked it to stop.", why="signal", save=not request.now)
        return Stop(f"The trainer received {self._signal}.", why="signal")

    def _read_request(self) -> StopRequest | None:
        return read_stop_request(self._layout, attempt=self._attempt)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        request = self._read_request()
        hurry = self.building or (request is not None and request.now)
        if not self._handled.is_set():
            signal.setitimer(signal.ITIMER_REAL, 0.001 if hurry else EDGE_WITHIN_S, _RETRY_S)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if self.interruptible and not self._handled.is_set() and (self._signal is not None or self._orphaned):
            self.interruptible = False
            raise TrainingStopped(self._explain())

    def _watch_lifeline(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            while os.read(descriptor, 1):
                pass
        self._orphaned = True
        deadline = time.monotonic() + ORPHAN_LIFE_S
        if not self._handled.wait(ORPHAN_EDGE_WITHIN_S):
            signal.pthread_kill(_main_thread_id(), signal.SIGALRM)
        if not self._handled.wait(max(0.0, deadline - time.monotonic())):
            os._exit(_LOST_EXIT_CODE)
        time.sleep(_SAVE_WITHIN_S)
        os._exit(_LOST_EXIT_CODE)


def _main_thread_id() -> int:
    identity: Any = threading.main_thread().ident
    return int(identity)
