"""Measures an attempt's progress: its position, its speed, and the seconds of training done so far."""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from relight.runs.progress import Phase, ProgressFile

_MARK_EVERY_S = 0.5
_MARKS = 40  # the recent rate covers about the last 20 seconds
_log = logging.getLogger("relight")


@dataclass(frozen=True)
class Totals:
    """The steps and epochs of the whole run and the batches of one epoch; 0 where the number is not known."""

    steps: int = 0
    epochs: int = 0
    batches: int = 0


class ProgressMeter:
    """Writes the progress record at every step edge. If the disk is full, it warns once and training continues."""

    def __init__(self, path: Path, totals: Totals) -> None:
        self.totals = totals
        self._file = ProgressFile(path)
        self._marks: deque[tuple[float, int]] = deque(maxlen=_MARKS)
        self._next_mark_s = 0.0
        self._rate = 0.0
        self._started_s = 0.0
        self._first_step = 0
        self._work_before_s = 0.0
        self._warned = False

    def start(self, *, step: int, work_s: float, now: float) -> None:
        """Note that this attempt's first step begins, after `work_s` seconds of training in earlier attempts."""
        self._started_s, self._first_step, self._work_before_s = now, step, work_s
        self._marks.append((now, step))
        self._next_mark_s = now + _MARK_EVERY_S

    def work_s(self, now: float) -> float:
        """Return the seconds of training in all attempts that led to the state at time `now`."""
        return self._work_before_s + (now - self._started_s if self._started_s else 0.0)

    def write(
        self,
        *,
        step: int,
        epoch: int,
        batch: int,
        now: float,
        phase: Phase,
        best_step: int = -1,
        best_value: float = math.nan,
    ) -> None:
        """Write the record of a step edge."""
        if now >= self._next_mark_s:
            self._marks.append((now, step))
            self._next_mark_s = now + _MARK_EVERY_S
            first_s, first_step = self._marks[0]
            if now > first_s:
                self._rate = (step - first_step) / (now - first_s)
        totals = self.totals
        try:
            self._file.put(
                phase, step, totals.steps, epoch, totals.epochs, batch, totals.batches, self._first_step, best_step,
                now, self._started_s, self._rate, best_value, self.work_s(now),
            )  # fmt: skip
        except OSError as error:
            if not self._warned:
                self._warned = True
                _log.warning("Progress cannot be written: %s. Training continues.", error.strerror or error)

    def close(self) -> None:
        """Close the file, which keeps the last record."""
        self._file.close()
