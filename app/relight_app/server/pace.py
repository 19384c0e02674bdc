"""How often something is read again and again: less often where reading it is expensive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SHARE_OF_TIME = 0.3
"""Of all time, so that one slow disk does not keep the hub's thread from everything else."""


class Pace:
    """Every `interval_s`, but never more than `share` of a processor nor 30 % of the time, however slow the disk is.

    On a busy machine reading takes longer only because it waits for a processor. That alone hardly slows it down.
    """

    def __init__(
        self,
        interval_s: float,
        *,
        share: float,
        clock: Callable[[], float] = time.monotonic,
        processor_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._interval_s = interval_s
        self._share = share
        self._clock = clock
        self._processor_clock = processor_clock
        self._next_s = float("-inf")

    @property
    def is_due(self) -> bool:
        """Whether it is time to read again."""
        return self._clock() >= self._next_s

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read within this, in one thread; it sets the time of the next reading."""
        began, began_cpu = self._clock(), self._processor_clock()
        try:
            yield
        finally:
            spent, worked = self._clock() - began, self._processor_clock() - began_cpu
            self._next_s = began + max(self._interval_s, worked / self._share, spent / _SHARE_OF_TIME)
