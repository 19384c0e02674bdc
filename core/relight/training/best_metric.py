"""What `best` means, and the best value so far. Among equal values the first one counts; NaN and infinity never do."""

from __future__ import annotations

import math
from typing import Any

from relight.metrics.metric_direction import guess_direction
from relight.runs.records import Objective


def choose_objective(metric: str, *, higher_is_better: bool | None) -> Objective:
    """Return what `best` means for the metric of that full name; None leaves the direction to the name."""
    if higher_is_better is not None:
        return Objective(metric, higher_is_better)
    guess = guess_direction(metric)
    return Objective(metric, guess is not False, guessed=guess is None)


class BestMetric:
    """The best value of an objective's metric, and the step at which it was measured."""

    def __init__(self, objective: Objective) -> None:
        self.name = objective.metric
        self.value: float | None = None
        self.step: int | None = None
        self._higher_is_better = objective.higher_is_better
        self.state: dict[str, Any] = {"metric": self.name, "value": None, "step": None}
        """What checkpoints keep. The dictionary never changes: a new best value makes a new one."""

    def offer(self, value: float | None, *, step: int) -> bool:
        """Take a new value; return whether it is the best so far."""
        if value is None or not math.isfinite(value):
            return False
        if self.value is not None and (value <= self.value if self._higher_is_better else value >= self.value):
            return False
        self._set(value, step)
        return True

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state, unless that is the state of another metric."""
        if state["metric"] == self.name:
            self._set(state["value"], state["step"])

    def _set(self, value: float | None, step: int | None) -> None:
        self.value, self.step = value, step
        self.state = {"metric": self.name, "value": value, "step": step}
