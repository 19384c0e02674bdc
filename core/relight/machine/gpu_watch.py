"""Reads GPUs in background threads, so that no caller waits for a driver that does not answer.

One thread asks the driver which cards there are, and each card has a thread that reads it: a driver call that hangs
affects neither other cards nor the caller. All are daemon threads, so a hung one keeps no process alive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from relight.machine.gpu import GpuCard, GpuReader, GpuReport

STALE_S = 5.0
_CLOSING_S = 1.0


@dataclass(frozen=True)
class _DriverAnswer:
    at: float
    absent: str | None
    count: int


class GpuWatch:
    """The latest figures of all cards, which background threads refresh every `interval_s` seconds.

    A card whose figures are older than `stale_s` seconds is returned without them, and its `error` says for how long it
    has not answered.
    """

    def __init__(
        self,
        *,
        interval_s: float = 1.0,
        stale_s: float = STALE_S,
        reader: GpuReader | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = interval_s
        self._stale_s = stale_s
        self._reader = reader or GpuReader()
        self._clock = clock
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._started_at = clock()
        self._driver: _DriverAnswer | None = None
        self._cards: dict[int, tuple[float, GpuCard]] = {}
        self._asked_at: dict[int, float] = {}
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start reading. The first report takes milliseconds, or seconds when the driver must wake up."""
        self._started_at = self._clock()
        self._spawn(self._watch_driver, "gpu-driver")

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the driver and all cards have answered once; return False when that exceeds `timeout_s`."""
        return self._ready.wait(timeout_s)

    def latest(self) -> GpuReport:
        """Return the newest figures that are not stale. Never blocks, never raises."""
        now = self._clock()
        driver = self._driver
        if driver is None:
            return self._reader.report((), absent=self._silence(now))
        if driver.absent is not None or driver.count == 0:
            return self._reader.report((), absent=driver.absent)
        return self._reader.report((self._card(index, now) for index in range(driver.count)), absent=None)

    def close(self) -> None:
        """Stop reading. A thread that hangs in the driver is left behind, and the library stays open for it."""
        self._stop.set()
        deadline = time.monotonic() + _CLOSING_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            self._reader.close()

    def _silence(self, now: float) -> str:
        waited_s = now - self._started_at
        if waited_s < self._stale_s:
            return "The NVIDIA driver has not answered yet."
        return f"The NVIDIA driver has not answered for {waited_s:.0f} s: GPU figures are not shown."

    def _card(self, index: int, now: float) -> GpuCard:
        at, card = self._cards.get(index, (self._asked_at.get(index, now), GpuCard(index=index)))
        age_s = now - at
        if age_s <= self._stale_s:
            return card
        return GpuCard(
            index=index,
            uuid=card.uuid,
            name=card.name,
            error=f"This card stopped answering {age_s:.0f} s ago: its driver hangs, and its processes may hang, too.",
        )

    def _watch_driver(self) -> None:
        while not self._stop.is_set():
            absent = self._reader.open()
            count = None if absent else self._reader.count()
            before = self._driver
            if count is None and absent is None and before is not None:
                # After one failed count, keep showing the cards: their own readings say how they are.
                count = before.count
            self._driver = _DriverAnswer(at=self._clock(), absent=absent, count=count or 0)
            for index in range(count or 0):
                if index not in self._asked_at:
                    self._asked_at[index] = self._clock()
                    self._spawn(partial(self._watch_card, index), f"gpu-{index}")
            if not count:
                self._ready.set()
            self._stop.wait(self._interval_s)

    def _watch_card(self, index: int) -> None:
        while not self._stop.is_set():
            card = self._reader.read_card(index)
            self._cards[index] = (self._clock(), card)
            driver = self._driver
            if driver is not None and len(self._cards) >= driver.count:
                self._ready.set()
            self._stop.wait(self._interval_s)

    def _spawn(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=f"relight-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()
