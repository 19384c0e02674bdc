"""The places of the kills follow from what the uninterrupted training was like, and every training has some."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relight.drill.kill_places import StepsSeen, choose_first, choose_second, choose_validation


def steps(count: int, **facts: Any) -> StepsSeen:
    return StepsSeen(**{"count": count, "per_epoch": 0, "between_updates": frozenset(), "validated": ()} | facts)


def test_the_second_kill_is_in_the_same_epoch_and_on_the_other_beat() -> None:
    second = choose_second(steps(40, per_epoch=10), killed_at=3, from_step=2)
    assert (second.checkpoint_step, second.kill_step) == (7, 8)
    between = frozenset(step for step in range(1, 41) if step % 4)
    second = choose_second(steps(40, per_epoch=10, between_updates=between), killed_at=3, from_step=2)
    assert second.checkpoint_step == 8, "the first was between two updates"
    second = choose_second(steps(40, between_updates=frozenset(range(1, 41, 2))), killed_at=3, from_step=2)
    assert second.checkpoint_step == 7, "and here it was not"


def test_a_training_without_another_step_is_killed_at_the_same_one_again() -> None:
    second = choose_second(steps(3), killed_at=3, from_step=2)
    assert (second.checkpoint_step, second.kill_step) == (0, 3)


def test_the_other_run_is_killed_in_a_validation_after_the_end_of_an_epoch() -> None:
    several = choose_validation(steps(40, per_epoch=10, validated=(10, 20, 30, 40)))
    assert (several.checkpoint_step, several.kill_step, several.in_validation) == (10, 10, True)
    one = choose_validation(steps(10, per_epoch=10, validated=(10,)))
    assert (one.checkpoint_step, one.kill_step, one.in_validation) == (9, 10, True)


def test_without_a_validation_the_kill_follows_the_end_of_an_epoch() -> None:
    order = choose_validation(steps(40, per_epoch=10))
    assert (order.checkpoint_step, order.kill_step, order.in_validation) == (10, 11, False)
    order = choose_validation(steps(40))
    assert (order.checkpoint_step, order.kill_step, order.in_validation) == (20, 30, False)


@given(st.integers(3, 500), st.integers(0, 60), st.sets(st.integers(1, 500)), st.sets(st.integers(1, 500)))
def test_every_kill_comes_after_its_checkpoint_and_before_the_end(
    count: int, per_epoch: int, between: set[int], validated: set[int]
) -> None:
    seen = steps(
        count, per_epoch=per_epoch, between_updates=frozenset(between),
        validated=tuple(sorted(step for step in validated if step <= count)),
    )  # fmt: skip
    first = choose_first()
    second = choose_second(seen, killed_at=first.kill_step, from_step=first.checkpoint_step)
    for order in (first, second, choose_validation(seen)):
        assert 0 <= order.checkpoint_step <= order.kill_step - (not order.in_validation)
        assert 0 < order.kill_step <= count
