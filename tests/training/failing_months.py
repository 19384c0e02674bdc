"""Months of training on machines that fail: the time that pacing loses, and that each fixed interval would have lost.

`python -m tests.training.failing_months` prints the table of docs/pacing.md.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relight.runs.failures import FailureHistory
from relight.training.pacing import Budget, SaveCosts, choose_first, choose_interval
from relight.wording import describe_duration

MONTH_S = 30 * 86_400.0
MONTHS = 10
FAILURES_EVERY_S = (1_200.0, 3_600.0, 6 * 3_600.0, 86_400.0, 7 * 86_400.0)
COSTS = (SaveCosts(0.05, 0.3, 0.1), SaveCosts(0.8, 3.0, 1.0), SaveCosts(5.0, 15.0, 1.0))
OPEN = Budget(max_loss_s=math.inf, max_overhead=1.0)
DECIDED_EVERY_S = 3_600.0
"""Nothing that pacing depends on changes much within an hour, which a real run uses for many decisions."""


@dataclass(frozen=True)
class Comparison:
    """Share of the time lost, on checkpoints and on work that was done twice, over all months."""

    failure_every_s: float
    costs: SaveCosts
    lost: float
    best_lost: float
    best_interval_s: float

    @property
    def ratio(self) -> float:
        return self.lost / self.best_lost


@functools.cache
def compare(costs: SaveCosts, budget: Budget, *, failure_every_s: float) -> Comparison:
    """Compare pacing, which starts without a history, with the best fixed interval within the same budget."""
    months = [draw_month(failure_every_s, seed=seed) for seed in range(MONTHS)]
    lost_s = sum(lose_by_pacing(month, costs, budget) for month in months)
    lengths_s = np.concatenate([np.array(month) for month in months])
    fixed = {interval_s: lose_by_fixed(lengths_s, costs, interval_s) for interval_s in list_intervals(costs, budget)}
    best_s = min(fixed, key=lambda interval_s: fixed[interval_s])
    return Comparison(failure_every_s, costs, lost_s / MONTHS / MONTH_S, fixed[best_s] / MONTHS / MONTH_S, best_s)


def draw_month(failure_every_s: float, *, seed: int) -> list[float]:
    """Return the lengths of a month's attempts: each ends with a failure, but for the last one."""
    random_ = random.Random(seed)
    left_s, lengths_s = MONTH_S, []
    while left_s > 0:
        lengths_s.append(min(random_.expovariate(1 / failure_every_s), left_s))
        left_s -= lengths_s[-1]
    return lengths_s


def lose_by_fixed(lengths_s: NDArray[np.float64], costs: SaveCosts, interval_s: float) -> float:
    """Return the seconds lost in attempts of these lengths with a checkpoint every `interval_s`."""
    cuts = np.floor(lengths_s / interval_s)
    durable = np.clip(np.floor((lengths_s - costs.durable_s) / interval_s), 0, cuts)
    return float(np.sum(cuts * costs.cost_s + lengths_s - durable * interval_s))


def lose_by_pacing(lengths_s: list[float], costs: SaveCosts, budget: Budget) -> float:
    """Return the seconds lost by the pace that each attempt would have chosen with what was known by then."""
    trained_s, lost_s = 0.0, 0.0
    for failures, length_s in enumerate(lengths_s):
        known = costs if failures else None  # the very first checkpoint tells what one costs
        history = FailureHistory(trained_s, failures)
        cuts, durable_at_s, cut_s = 0, 0.0, choose_first(known, budget)
        for interval_s, until_s in _decide(history, costs, budget, length_s):
            while cut_s < until_s:
                more = math.ceil((until_s - cut_s) / interval_s)
                last_s = cut_s + (more - 1) * interval_s
                undone = max(0, math.ceil((last_s + costs.durable_s - length_s) / interval_s))
                if undone < more:
                    durable_at_s = last_s - undone * interval_s
                cuts += more
                cut_s = last_s + interval_s
        lost_s += cuts * costs.cost_s + length_s - durable_at_s
        trained_s += length_s
    return lost_s


def list_intervals(costs: SaveCosts, budget: Budget) -> list[float]:
    """List fixed intervals within the budget, 10 % apart, and its limits."""
    delay_s = costs.cost_s + costs.durable_s + costs.step_s
    most_s = budget.max_loss_s - delay_s
    least_s = min(costs.cost_s / budget.max_overhead, most_s)
    grid = [least_s, *(5 * 1.1**power for power in range(105)), min(most_s, MONTH_S)]
    return [interval_s for interval_s in grid if interval_s >= 1 and least_s <= interval_s <= most_s]


def _decide(
    history: FailureHistory, costs: SaveCosts, budget: Budget, length_s: float
) -> Iterator[tuple[float, float]]:
    at_s = 0.0
    while at_s < length_s:
        failure_every_s = history.estimate_interval(at_s)
        until_s = min(at_s + DECIDED_EVERY_S, length_s)
        yield choose_interval(costs, budget, failure_every_s=failure_every_s).interval_s, until_s
        at_s = until_s


def make_table() -> str:
    """Return the table of docs/pacing.md."""
    lines = [
        "| a failure every | a checkpoint costs | pacing loses | the best fixed interval | loses | ratio | "
        "without a budget: pacing loses | the best fixed interval | loses | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for failure_every_s in FAILURES_EVERY_S:
        for costs in COSTS:
            within = compare(costs, Budget(), failure_every_s=failure_every_s)
            free = compare(costs, OPEN, failure_every_s=failure_every_s)
            cells = [describe_duration(failure_every_s), f"{costs.cost_s:g} s", *_show(within), *_show(free)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _show(one: Comparison) -> list[str]:
    best = describe_duration(one.best_interval_s)
    return [f"{100 * one.lost:.2f} %", best, f"{100 * one.best_lost:.2f} %", f"{one.ratio:.2f}"]


if __name__ == "__main__":
    print(make_table())
