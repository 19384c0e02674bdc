"""Pauses between the writes of a pack. A write takes hardly any processor time, but slows down the training."""

from __future__ import annotations

import threading

_LONGEST_S = 1.0


class Pauses:
    """After each write a pause, `share` times as long as the write was, up to a second. `hurry` ends them all."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._hurried = threading.Event()

    def rest(self, worked_s: float) -> None:
        """Pause after a write that took `worked_s` seconds. The pause ends at once when the work is hurried."""
        if self._share:
            self._hurried.wait(min(self._share * worked_s, _LONGEST_S))

    def hurry(self) -> None:
        """End the pause, and make no more. Any thread may call it."""
        self._hurried.set()

    @property
    def is_hurried(self) -> bool:
        """Whether there are no more pauses."""
        return self._hurried.is_set()
