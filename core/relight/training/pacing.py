"""Decides how often to save: from the cost of a checkpoint, the machine's failures, and a budget. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from relight.runs.records import PaceReason

_DAY_S = 86_400.0
_SHORTEST_S = 10.0
"""A state so small that saving it costs nothing is not saved more often: each checkpoint is three files and fsyncs."""
_FIRST_S = (20.0, 45.0)
"""The first checkpoint of an attempt falls into this time, as late as the budget wishes."""


@dataclass(frozen=True)
class Budget:
    """What a person accepts: work that a failure may cost, time spent on checkpoints, wear of the disk."""

    max_loss_s: float = 300.0
    max_overhead: float = 0.01
    bytes_a_day: float = math.inf


@dataclass(frozen=True)
class SaveCosts:
    """What one checkpoint costs: seconds of training, seconds until it is durable, bytes on the disk.

    Checkpoints are cut at step edges, so `step_s` is how long one may have to wait for its edge.
    """

    cost_s: float
    durable_s: float
    step_s: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class Choice:
    """Seconds from one checkpoint to the next, what decided them, and the most work that is then ever at risk."""

    interval_s: float
    reason: PaceReason
    at_risk_s: float


def choose_interval(costs: SaveCosts, budget: Budget, *, failure_every_s: float) -> Choice:
    """Return the interval that loses the least time within the budget.

    An interval t spends C/t of the time on checkpoints, and a failure costs t/2 on average: with a failure every M
    seconds the sum is smallest at t = sqrt(2 C M) (Young 1974). Daly (2006) adds terms that matter only when C is more
    than a few percent of M. The budget moves t up (overhead, wear), then down: the promise about loss wins.
    """
    wanted_s = math.sqrt(2 * costs.cost_s * failure_every_s)
    reason: PaceReason = "balance"
    floors: tuple[tuple[float, PaceReason], ...] = (
        (max(_SHORTEST_S, costs.durable_s), "balance"),  # the disk can take no more
        (costs.cost_s / budget.max_overhead, "overhead"),
        (costs.bytes / budget.bytes_a_day * _DAY_S, "bytes"),
    )
    for floor_s, name in floors:
        if floor_s > wanted_s:
            wanted_s, reason = floor_s, name
    delay_s = costs.durable_s + costs.cost_s + costs.step_s
    most_s = max(budget.max_loss_s - delay_s, costs.durable_s, costs.cost_s, 1e-3)
    if wanted_s >= most_s:
        wanted_s, reason = most_s, "loss"
    return Choice(wanted_s, reason, wanted_s + delay_s)


def choose_first(costs: SaveCosts | None, budget: Budget) -> float:
    """Return after how many seconds of training to save first: within a minute, to measure and to prove the disk."""
    if costs is None:
        return min(_FIRST_S[0], budget.max_loss_s)
    latest_s = min(max(costs.cost_s / budget.max_overhead, _FIRST_S[0]), _FIRST_S[1])
    return min(latest_s, max(budget.max_loss_s - costs.durable_s - costs.cost_s - costs.step_s, 0.0))
