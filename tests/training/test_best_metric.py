"""The best value is the highest or the lowest. The earliest wins a tie; NaN and infinity never win."""

from __future__ import annotations

import math

import pytest

from relight.runs.records import Objective
from relight.training.best_metric import BestMetric


@pytest.mark.parametrize(
    ("higher", "values", "best"),
    [
        (True, [0.1, 0.5, 0.5, 0.4], (0.5, 2)),
        (False, [0.5, 0.1, 0.1, 0.4], (0.1, 2)),
        (True, [math.nan, 0.2, math.nan], (0.2, 2)),
        (False, [math.inf, 3.0, -math.inf], (3.0, 2)),
        (True, [math.nan], (None, None)),
        (True, [None], (None, None)),
        (False, [-1.0, -2.0], (-2.0, 2)),
    ],
)
def test_the_best_is_the_first_of_the_extreme_finite_values(higher: bool, values: list, best: tuple) -> None:
    metric = BestMetric(Objective("validation/x", higher_is_better=higher))
    improved = [metric.offer(value, step=step) for step, value in enumerate(values, 1)]
    assert (metric.value, metric.step) == best
    assert [step for step, yes in enumerate(improved, 1) if yes][-1:] == ([best[1]] if best[1] else [])

    again = BestMetric(Objective("validation/x", higher_is_better=higher))
    again.restore(metric.state)
    assert (again.value, again.step) == best


def test_the_best_of_another_metric_is_forgotten() -> None:
    metric = BestMetric(Objective("validation/x", higher_is_better=True))
    metric.offer(3.0, step=1)
    other = BestMetric(Objective("validation/y", higher_is_better=True))
    other.restore(metric.state)
    assert other.value is None
