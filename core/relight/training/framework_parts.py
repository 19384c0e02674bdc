"""What callbacks in other frameworks' loops share: their loader, their steps, and what is yet to be told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from relight.training.data.adopted_loader import ResumableLoader


class EpochLoader:
    """A loader for loops that ask for an iterator once an epoch, and stop at its length without looking for its end.

    `before_batch` is called whenever the loop asks for a batch of which there is one, before the position moves. A loop
    that asks on at the end of an epoch (the HF Trainer's, in a resumed one) hears that there is none, and no more.
    """

    def __init__(self, inner: ResumableLoader, *, before_batch: Callable[[], None] = lambda: None) -> None:
        self._inner = inner
        self._before_batch = before_batch

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Any]:
        """Yield the rest of the epoch; the next one if that is over."""
        self._before_batch()
        inner = self._inner
        if inner.batch and inner.batch >= inner.batches:
            inner.next_epoch()
        for batch in inner:
            yield batch
            if inner.batch >= inner.batches:
                return
            self._before_batch()

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        self._inner.load_state_dict(state)

    def close(self) -> None:
        """End the data-loading processes."""
        self._inner.close()


class OuterSteps:
    """`run.steps`, driven by a loop that is not ours: `advance` after each step, `leave` after the last one."""

    def __init__(self, steps: Iterator[int]) -> None:
        self._steps: list[Iterator[int]] = [steps]
        next(steps, None)

    def advance(self) -> None:
        """The step is over."""
        for steps in self._steps:
            next(steps, None)

    def leave(self) -> None:
        """The step is over, and no other comes: the loop is left as by a `break`, so that its end is saved."""
        while self._steps:
            for _ in self._steps.pop():
                break


class Measuring(Protocol):
    """Whoever hears of validations."""

    measured: dict[str, float]
    """What a validation has measured and the run has not been told."""


class Untold:
    """What is yet to be told, as a part of the training state: a resume does not measure it again."""

    def __init__(self, callback: Measuring) -> None:
        self._callback = callback

    def state_dict(self) -> dict[str, Any]:
        """Return it."""
        return {"measured": dict(self._callback.measured)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have it told."""
        self._callback.measured = dict(state["measured"])
