"""Measures what a checkpoint costs the training: all steps that are slower while it is saved, not only the copy."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

_BLOCK_S = 0.5
"""Steps without a save are timed in blocks of this length, so that timing costs one comparison per step."""
_BLOCKS = 32
_ENOUGH = 8
"""So many blocks after a save tell its cost; fewer do if the next save begins first."""
_COSTS = 5
_PAUSE_S = 0.5
"""A longer time at one step edge is a validation."""


@dataclass
class _Save:
    """One stretch of training in which checkpoints were saved, until the disk was quiet again."""

    before_s: float | None
    """Time of a step before it."""
    saves: int = 0
    blocked_s: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    settled: bool = False


class CostMeter:
    """Compares the steps taken during a save with those before and after it. Times are those of one monotonic clock.

    The cost is what these steps took beyond as many usual ones, and at least the time for which the copy blocked them.
    The usual time is the mean of two medians, one from before and one from after, so that a machine which slows down
    over time does not count as a cost. The median of the last five costs counts, the lower one of an even number: the
    first save also allocates its memory, and the first steps of a training are uneven.
    """

    def __init__(self, known_s: float | None = None) -> None:
        """`known_s` is what an earlier attempt has measured."""
        self.spent_s = 0.0
        """Training time that all checkpoints of this attempt have cost."""
        self.pause_s: float | None = None
        """How long the last validation took."""
        self.measured = 0
        """How many costs are known; it grows with each."""
        self._costs: deque[float] = deque([] if known_s is None else [known_s], maxlen=_COSTS)
        self._blocks: deque[float] = deque(maxlen=_BLOCKS)
        self._save: _Save | None = None
        self._ended: _Save | None = None
        self._step = -1
        self._edge_s = 0.0
        self._begin_step = -1
        self._begin_s = 0.0
        self._look_s = 0.0

    @property
    def cost_s(self) -> float | None:
        """Seconds of training that a checkpoint costs; None until that is measured."""
        return statistics.median_low(self._costs) if self._costs else None

    @property
    def step_s(self) -> float | None:
        """Seconds of a step while nothing is saved; None until one was timed."""
        if self._blocks:
            return statistics.median(self._blocks)
        ended = self._save or self._ended
        return ended.before_s if ended is not None else None

    def pass_edge(self, step: int, now: float) -> None:
        """Note a step edge. A second call for the same step says that what lay between was not a step."""
        if step == self._step:
            self._skip(now)
        self._step = step
        self._edge_s = now
        if now >= self._look_s:
            self._look(now)

    def begin_save(self, now: float) -> None:
        """Note that a save begins at the step edge that was passed last."""
        save = self._save
        if save is None:
            self._measure()
            save = self._save = _Save(statistics.median(self._blocks) if self._blocks else None)
            self._blocks.clear()
            self._begin_s, self._begin_step, self._look_s = now, self._step, 0.0
        save.saves += 1
        save.settled = False

    def end_copy(self, now: float, *, blocked_s: float) -> None:
        """Note that the training may go on, after it was blocked for `blocked_s`."""
        self._edge_s = now
        if self._save is not None:
            self._save.blocked_s += blocked_s

    def settle(self) -> None:
        """Note that everything handed over is durable and verified: from the next edge on, steps are usual ones."""
        if self._save is not None:
            self._save.settled = True

    def give_up(self) -> None:
        """Forget the save in progress, which has failed: its time says nothing about others."""
        if self._save is not None:
            self.spent_s += self._save.blocked_s
            self._save = None
            self._begin_s, self._begin_step = self._edge_s, self._step

    def _skip(self, now: float) -> None:
        pause_s = now - self._edge_s
        self._begin_s += pause_s
        if pause_s >= _PAUSE_S:
            self.pause_s = pause_s

    def _look(self, now: float) -> None:
        steps, seconds = self._step - self._begin_step, now - self._begin_s
        save = self._save
        if save is not None:
            if not save.settled or steps <= 0:
                return
            save.seconds, save.steps = seconds, steps
            self._ended, self._save = save, None
        elif self._begin_step >= 0 and steps > 0:
            self._blocks.append(seconds / steps)
            if len(self._blocks) >= _ENOUGH:
                self._measure()
        self._begin_s, self._begin_step, self._look_s = now, self._step, now + _BLOCK_S

    def _measure(self) -> None:
        """Work out the cost of the last save from the steps around it."""
        save, self._ended = self._ended, None
        if save is None:
            return
        usual = [save.before_s] if save.before_s is not None else []
        if self._blocks:
            usual.append(statistics.median(self._blocks))
        if not usual:
            self.spent_s += save.blocked_s
            return
        spent_s = max(save.blocked_s, save.seconds - save.steps * statistics.mean(usual))
        self.spent_s += spent_s
        self._costs.append(spent_s / save.saves)
        self.measured += 1
