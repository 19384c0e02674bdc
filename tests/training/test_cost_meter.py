"""The cost of a checkpoint is what the steps around it say, whatever else the training does."""

from __future__ import annotations

import random

import pytest

from relight.training.cost_meter import CostMeter


class Loop:
    """A training loop on a clock of its own; steps take a little more or less than `step_s`."""

    def __init__(self, meter: CostMeter, *, step_s: float, noise: float = 0.0, seed: int = 0) -> None:
        self.meter = meter
        self.step_s = step_s
        self.now = 100.0
        self.step = 0
        self._noise = noise
        self._random = random.Random(seed)

    def train(self, seconds: float, *, slower: float = 1.0) -> None:
        end_s = self.now + seconds
        while self.now < end_s:
            self.take_step(slower=slower)

    def take_step(self, *, slower: float = 1.0, extra_s: float = 0.0) -> None:
        self.now += self.step_s * slower * (1 + self._noise * self._random.random()) + extra_s
        self.step += 1
        self.meter.pass_edge(self.step, self.now)

    def validate(self, seconds: float) -> None:
        self.now += seconds
        self.meter.pass_edge(self.step, self.now)

    def save(self, *, blocked_s: float, seconds: float, slower: float) -> float:
        """Save; steps are `slower` for `seconds`. Return what that costs."""
        self.meter.begin_save(self.now)
        self.now += blocked_s
        self.meter.end_copy(self.now, blocked_s=blocked_s)
        begun_s = self.now
        self.train(seconds, slower=slower)
        self.meter.settle()
        self.take_step(slower=slower)
        return blocked_s + (self.now - begun_s) * (1 - 1 / slower)


@pytest.mark.parametrize(("step_s", "seconds"), [(0.003, 0.4), (0.05, 2.0), (1.0, 3.0), (20.0, 3.0)])
def test_the_cost_is_all_that_the_steps_of_a_save_take_longer(step_s: float, seconds: float) -> None:
    loop = Loop(CostMeter(), step_s=step_s, noise=0.2)
    loop.train(20 * max(step_s, 1.0))
    true_s = []
    for _ in range(5):
        true_s.append(loop.save(blocked_s=0.15, seconds=seconds, slower=1.5))
        loop.train(20 * max(step_s, 1.0))
    assert loop.meter.cost_s == pytest.approx(sum(true_s) / 5, rel=0.25)
    assert loop.meter.spent_s == pytest.approx(sum(true_s), rel=0.25)


def test_a_save_that_slows_nothing_costs_what_its_copy_blocked() -> None:
    loop = Loop(CostMeter(), step_s=0.01, noise=0.5)
    loop.train(10)
    loop.save(blocked_s=0.15, seconds=1.0, slower=1.0)
    loop.train(10)
    assert loop.meter.cost_s == pytest.approx(0.15, abs=0.05)


def test_nothing_is_known_before_there_are_steps_without_a_save() -> None:
    loop = Loop(CostMeter(), step_s=0.1)
    loop.train(0.05)
    loop.save(blocked_s=0.1, seconds=1.0, slower=2.0)
    assert loop.meter.cost_s is None
    loop.train(10)
    assert loop.meter.cost_s is not None


def test_a_machine_that_becomes_slower_over_time_is_no_cost() -> None:
    loop = Loop(CostMeter(), step_s=0.05)
    for _ in range(100):
        loop.step_s *= 1.003
        loop.train(0.5)
    loop.save(blocked_s=0.01, seconds=3.0, slower=1.0)
    for _ in range(20):
        loop.step_s *= 1.003
        loop.train(0.5)
    assert loop.meter.cost_s is not None
    assert loop.meter.cost_s < 0.3, "3 s of training, whose steps take 4 % longer than those of 16 s before on average"


def test_validations_are_no_cost_and_no_steps() -> None:
    loop = Loop(CostMeter(), step_s=0.02)
    for _ in range(10):
        loop.train(2)
        loop.validate(30)
    loop.meter.begin_save(loop.now)
    loop.now += 0.2
    loop.meter.end_copy(loop.now, blocked_s=0.2)
    loop.validate(30)
    loop.train(1, slower=2.0)
    loop.meter.settle()
    loop.take_step()
    loop.validate(30)
    loop.train(10)
    assert loop.meter.pause_s == pytest.approx(30)
    assert loop.meter.step_s == pytest.approx(0.02)
    assert loop.meter.cost_s == pytest.approx(0.7, abs=0.05)


def test_a_validation_inside_the_loop_of_a_script_misleads_only_one_of_five() -> None:
    loop = Loop(CostMeter(), step_s=0.02)
    loop.train(10)
    for number in range(5):
        loop.save(blocked_s=0.1, seconds=1.0, slower=2.0)
        if number == 2:
            loop.meter.begin_save(loop.now)
            loop.take_step(extra_s=60.0)
            loop.meter.settle()
            loop.take_step()
        loop.train(10)
        loop.take_step(extra_s=20.0)
        loop.train(10)
    assert loop.meter.cost_s == pytest.approx(0.6, abs=0.1)


def test_a_first_save_in_uneven_steps_decides_nothing_once_there_is_a_second() -> None:
    loop = Loop(CostMeter(), step_s=0.5)
    loop.take_step()
    loop.save(blocked_s=0.15, seconds=20, slower=10)
    loop.train(300)
    assert loop.meter.cost_s is not None and loop.meter.cost_s > 10
    loop.save(blocked_s=0.15, seconds=1.0, slower=1.5)
    loop.train(300)
    assert loop.meter.cost_s < 1


def test_saves_that_overlap_share_the_cost() -> None:
    loop = Loop(CostMeter(), step_s=0.02)
    loop.train(10)
    loop.meter.begin_save(loop.now)
    loop.train(0.5, slower=2.0)
    loop.meter.begin_save(loop.now)
    loop.train(0.5, slower=2.0)
    loop.meter.settle()
    loop.take_step()
    loop.train(10)
    assert loop.meter.cost_s == pytest.approx(0.25, abs=0.03)


def test_a_save_that_fails_says_nothing_about_the_cost() -> None:
    loop = Loop(CostMeter(0.3), step_s=0.02)
    loop.train(10)
    loop.meter.begin_save(loop.now)
    loop.train(20, slower=3.0)
    loop.meter.give_up()
    loop.train(10)
    assert loop.meter.cost_s == 0.3
