"""The best value of the run's best metric so far: higher or lower wins, of equals the earliest, NaN never."""

from __future__ import annotations

import math
from typing import Any

from relight.runs.records import Objective


class BestMetric:
    """Tracks the metric of an objective."""

    def __init__(self, objective: Objective) -> None:
        self.name = objective.metric
        self.higher_is_better = objective.higher_is_better
        self.value: float | None = None
        self.step: int | None = None
        self._state: dict[str, Any] = {"metric": self.name, "value": None, "step": None}

    def offer(self, value: float | None, *, step: int) -> bool:
        """Take a new value; return whether it is the best so far."""
        if value is None or not math.isfinite(value):
            return False
        if self.value is not None and (value <= self.value if self.higher_is_better else value >= self.value):
            return False
        self._set(value, step)
        return True

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it: a dictionary that is replaced, never changed."""
        return self._state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; another metric's best is forgotten."""
        if state["metric"] == self.name:
            self._set(state["value"], state["step"])

    def _set(self, value: float | None, step: int | None) -> None:
        self.value, self.step = value, step
        self._state = {"metric": self.name, "value": value, "step": step}
