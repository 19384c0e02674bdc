"""Chooses where a drill kills: what a training's steps are like decides at which of them a resume could go wrong."""

from __future__ import annotations

from dataclasses import dataclass

from relight.metrics.metric_scan import scan_metrics
from relight.metrics.series import read_series
from relight.metrics.witness_file import read_witnesses
from relight.runs.layout import RunLayout
from relight.runs.records import DrillOrder

_FIRST_CHECKPOINT = 2
_APART = 5
"""How many steps after the first kill the second checkpoint is cut, about: long enough for another beat."""


@dataclass(frozen=True)
class StepsSeen:
    """What an uninterrupted training has shown about its steps."""

    count: int
    per_epoch: int
    """0 when unknown."""
    between_updates: frozenset[int]
    """Steps that left the weights as they were, since gradients are accumulated."""
    validated: tuple[int, ...]
    """Steps after which something was measured in a validation."""


def read_steps(layout: RunLayout, *, count: int, per_epoch: int) -> StepsSeen:
    """Read what the first attempt of a run has left behind about its `count` steps."""
    weights = {step: seen.weights for step, seen in read_witnesses(layout.attempt(1).witness, after_step=0).items()}
    validated: set[int] = set()
    for name in scan_metrics(layout.metrics).names:
        if name.startswith("validation/"):
            validated.update(read_series(layout.metrics, name).steps.tolist())
    return StepsSeen(
        count=count,
        per_epoch=per_epoch,
        between_updates=frozenset(step for step, digest in weights.items() if digest == weights.get(step - 1, 0) != 0),
        validated=tuple(sorted(step for step in validated if step > 0)),
    )


def choose_first() -> DrillOrder:
    """Choose the first kill, before anything is known about the training: early, so that the shortest one has it."""
    return DrillOrder(checkpoint_step=_FIRST_CHECKPOINT, kill_step=_FIRST_CHECKPOINT + 1)


def choose_second(steps: StepsSeen, *, killed_at: int, from_step: int) -> DrillOrder:
    """Choose a second kill in the same epoch, on the other beat of accumulation and averages, if there is one.

    When no step is left for another checkpoint, the resumed training is killed again at the same step.
    """
    size = steps.per_epoch
    end = min(steps.count, (killed_at // size + 1) * size) if size else steps.count
    first = from_step in steps.between_updates

    def rank(step: int) -> tuple[bool, bool, int]:
        return (step in steps.between_updates) is first, step % 2 == from_step % 2, abs(step - killed_at - _APART)

    place = min(range(killed_at + 1, end), key=rank, default=0)
    return DrillOrder(checkpoint_step=place, kill_step=place + 1 if place else killed_at)


def choose_validation(steps: StepsSeen) -> DrillOrder:
    """Choose the kill of another run: with a checkpoint at the end of an epoch, and in a validation.

    Without a validation the kill follows the end of an epoch; without epochs it comes long after its checkpoint.
    """
    if steps.validated and (len(steps.validated) > 1 or steps.validated[0] > 1):
        step = steps.validated[0]
        # A script's checkpoint at the end of a pass is cut after the validation, so the next validation is the one.
        place = step if len(steps.validated) > 1 else step - 1
        return DrillOrder(checkpoint_step=place, kill_step=step, in_validation=True)
    if 0 < steps.per_epoch < steps.count:
        return DrillOrder(checkpoint_step=steps.per_epoch, kill_step=steps.per_epoch + 1)
    place = max(1, steps.count // 2)
    return DrillOrder(checkpoint_step=place, kill_step=max(place + 1, steps.count * 3 // 4))
