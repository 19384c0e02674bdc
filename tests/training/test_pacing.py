"""How often to save: within the budget, and close to the best that could have been known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relight.training.pacing import Budget, SaveCosts, choose_first, choose_interval
from tests.training import failing_months
from tests.training.failing_months import COSTS, FAILURES_EVERY_S, OPEN, compare

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pacing.md"

SECONDS = st.floats(1e-4, 1e4)
COST = st.builds(SaveCosts, SECONDS, SECONDS, st.floats(0, 1e4), st.integers(0, 10**13))
BUDGET = st.builds(Budget, st.floats(0.01, 1e7), st.floats(1e-4, 1.0), st.floats(1e6, 1e15) | st.just(math.inf))
FAILURE_S = st.floats(1.0, 1e9)


@given(costs=COST, budget=BUDGET, failure_every_s=FAILURE_S)
def test_no_more_than_the_promised_work_is_at_risk_if_the_machine_can_keep_that(
    costs: SaveCosts, budget: Budget, failure_every_s: float
) -> None:
    choice = choose_interval(costs, budget, failure_every_s=failure_every_s)
    delay_s = costs.durable_s + costs.cost_s + costs.step_s
    assert 0 < choice.interval_s < math.inf
    assert choice.at_risk_s == pytest.approx(choice.interval_s + delay_s)
    if budget.max_loss_s >= delay_s + max(costs.durable_s, costs.cost_s) + 1e-3:
        assert choice.at_risk_s <= budget.max_loss_s * (1 + 1e-9)
    else:
        assert choice.reason == "loss"
        assert choice.interval_s <= max(costs.durable_s, costs.cost_s, 1e-3)


@given(costs=COST, budget=BUDGET, failure_every_s=FAILURE_S)
def test_overhead_and_wear_stay_within_the_budget_unless_the_promise_about_loss_needs_more(
    costs: SaveCosts, budget: Budget, failure_every_s: float
) -> None:
    choice = choose_interval(costs, budget, failure_every_s=failure_every_s)
    assume(choice.reason != "loss")
    assert costs.cost_s / choice.interval_s <= budget.max_overhead * (1 + 1e-9)
    assert costs.bytes / choice.interval_s * 86_400 <= budget.bytes_a_day * (1 + 1e-9)


@given(costs=COST, failure_every_s=FAILURE_S)
def test_without_a_budget_it_is_the_interval_of_young(costs: SaveCosts, failure_every_s: float) -> None:
    young_s = math.sqrt(2 * costs.cost_s * failure_every_s)
    assume(young_s > max(10.0, costs.cost_s, costs.durable_s))
    choice = choose_interval(costs, OPEN, failure_every_s=failure_every_s)
    assert (choice.interval_s, choice.reason) == (pytest.approx(young_s), "balance")


@given(costs=COST, budget=BUDGET, failure_every_s=FAILURE_S, factor=st.floats(1.0, 1e3))
def test_a_machine_that_fails_more_often_is_never_saved_less_often(
    costs: SaveCosts, budget: Budget, failure_every_s: float, factor: float
) -> None:
    often = choose_interval(costs, budget, failure_every_s=failure_every_s)
    seldom = choose_interval(costs, budget, failure_every_s=failure_every_s * factor)
    assert often.interval_s <= seldom.interval_s


@given(costs=COST, budget=BUDGET, failure_every_s=FAILURE_S, factor=st.floats(1.0, 1e3))
def test_a_larger_promise_or_a_smaller_allowance_never_saves_more_often(
    costs: SaveCosts, budget: Budget, failure_every_s: float, factor: float
) -> None:
    now = choose_interval(costs, budget, failure_every_s=failure_every_s)
    looser = Budget(budget.max_loss_s * factor, budget.max_overhead / factor, budget.bytes_a_day / factor)
    assert choose_interval(costs, looser, failure_every_s=failure_every_s).interval_s >= now.interval_s


@given(costs=st.none() | COST, budget=BUDGET)
def test_the_first_checkpoint_comes_within_a_minute_and_within_the_promise(
    costs: SaveCosts | None, budget: Budget
) -> None:
    first_s = choose_first(costs, budget)
    assert 0 <= first_s <= 45
    assert first_s <= budget.max_loss_s


def test_each_limit_says_that_it_decides() -> None:
    costs = SaveCosts(1.3, 3.0, 0.5, 1_500_000_000)

    def decide(budget: Budget, *, failure_every_s: float = 86_400.0, costs: SaveCosts = costs) -> tuple[str, int]:
        choice = choose_interval(costs, budget, failure_every_s=failure_every_s)
        return choice.reason, round(choice.interval_s)

    assert decide(Budget(max_loss_s=900.0)) == ("balance", 474)
    assert decide(Budget(max_loss_s=900.0), failure_every_s=3_600.0) == ("overhead", 130)
    assert decide(Budget(max_loss_s=900.0, bytes_a_day=200e9)) == ("bytes", 648)
    assert decide(Budget()) == ("loss", 295)
    assert decide(Budget(), costs=SaveCosts(30.0, 100.0)) == ("loss", 170), "more than 1 %, but the promise is kept"
    assert decide(Budget(), costs=SaveCosts(30.0, 400.0)) == ("loss", 400), "as fast as the disk allows"
    assert decide(Budget(), costs=SaveCosts(0.0001, 0.01)) == ("balance", 10)


@pytest.mark.parametrize("costs", COSTS, ids=lambda costs: f"{costs.cost_s:g} s")
@pytest.mark.parametrize("failure_every_s", FAILURES_EVERY_S)
def test_in_months_with_failures_pacing_is_close_to_the_best_fixed_interval_known_afterwards(
    failure_every_s: float, costs: SaveCosts
) -> None:
    for budget in (Budget(), OPEN):
        assert compare(costs, budget, failure_every_s=failure_every_s).ratio <= 1.2


def test_the_page_shows_the_simulation() -> None:
    assert failing_months.make_table() in PAGE.read_text()
