"""The order of a foreign sampler, made a function of seed and epoch, and checked when it is drawn again.

PyTorch's samplers draw from a generator that nothing saves, and they have no position. Here a sampler draws a whole
epoch at once, with every generator that it can reach seeded for that epoch. A resume draws again and continues from its
position. A digest of the order shows whether it is the same, so a sampler that depends on anything else is detected.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from torch.utils.data import Sampler as TorchSampler

from relight.errors import TaskError
from relight.training.data.global_generators import global_generators
from relight.training.data.sampler import BatchKey
from relight.training.state.own_generators import (
    OwnGenerator,
    is_generator,
    read_generator,
    seed_generator,
    write_generator,
)
from relight.training.state.seeds import mix_seeds

_NESTED = ("sampler", "batch_sampler")
_DRAW = 0x0D1A  # makes the seeds of an order differ from those of the samples
_KEPT = 2


class DrawnOrder:
    """The order of a sampler of samples or, without `batch_size`, of a batch sampler (its position counts batches)."""

    def __init__(
        self, sampler: Any, *, length: int, batch_size: int | None, seed: int, drop_last: bool, ahead: bool
    ) -> None:
        self.sampler = sampler
        self.length = length
        self.seed = seed
        self.ahead = ahead
        self.batch_size = batch_size or 1
        self._in_batches = batch_size is None
        self._drop_last = drop_last
        self._drawn: dict[int, _Drawn] = {}
        self._expected: tuple[int, str] | None = None
        self._has_state = hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict")

    @property
    def samples(self) -> int:
        """Length of one epoch according to the sampler."""
        length = len(self.sampler)
        return length - length % self.batch_size if self._drop_last else length

    @property
    def batches(self) -> int:
        """Batches of one epoch according to the sampler."""
        return -(-self.samples // self.batch_size)

    def samples_of(self, epoch: int) -> int:
        """Return the length of this epoch as it was drawn."""
        drawn = self._draw(epoch)
        count = len(drawn.indices) if drawn.ends is None else len(drawn.ends)
        return count - count % self.batch_size if self._drop_last else count

    def keys(self, *, epoch: int, start: int = 0) -> Iterator[BatchKey]:
        """Name the batches of `epoch` in order, starting with the one at `start`."""
        drawn, count = self._draw(epoch), self.samples_of(epoch)
        while start < count:
            stop = min(start + self.batch_size, count)
            first, last = (start, stop) if drawn.ends is None else drawn.span(start)
            yield BatchKey(epoch, start, drawn.indices[first:last].copy(), stop, np.arange(first, last))
            start = stop

    def state(self, epoch: int) -> dict[str, Any]:
        """Return the digest of the epoch's order if it is drawn, and the sampler's state from before the draw."""
        drawn = self._drawn.get(epoch)
        state: dict[str, Any] = {"order": "" if drawn is None else drawn.digest}
        if self._has_state:
            state["sampler"] = copy.deepcopy(self.sampler.state_dict()) if drawn is None else drawn.state
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Load the sampler's own state; the next draw must have the saved digest."""
        self._drawn.clear()
        self._expected = (int(state["epoch"]), state["order"]) if state.get("order") else None
        if self._has_state and "sampler" in state:
            self.sampler.load_state_dict(copy.deepcopy(state["sampler"]))

    def check(self) -> None:
        """Draw the first epoch twice. Raise `TaskError` when the two orders differ."""
        first = self._draw(0)
        again = self._draw_now(0, first.state)
        self._drawn.clear()
        if self._has_state:
            self.sampler.load_state_dict(copy.deepcopy(first.state))
        if first.digest != again.digest:
            raise TaskError(
                f"{type(self.sampler).__name__} yields a different order each time it draws the same epoch, so a "
                "resume could not continue it. Give it set_epoch(epoch), or state_dict() and load_state_dict()."
            )

    def _draw(self, epoch: int) -> _Drawn:
        drawn = self._drawn.get(epoch)
        if drawn is None:
            state = copy.deepcopy(self.sampler.state_dict()) if self._has_state else None
            drawn = self._draw_now(epoch, state)
            if self._expected is not None and self._expected[0] == epoch and self._expected[1] != drawn.digest:
                raise TaskError(
                    f"{type(self.sampler).__name__} drew a different order for epoch {epoch + 1} than before the "
                    "interruption, so it depends on more than its seed and epoch. "
                    "Give it state_dict() and load_state_dict()."
                )
            while len(self._drawn) >= _KEPT:
                del self._drawn[min(self._drawn)]
            self._drawn[epoch] = drawn
        return drawn

    def _draw_now(self, epoch: int, state: Any) -> _Drawn:
        if self._has_state:
            self.sampler.load_state_dict(copy.deepcopy(state))
        for sampler in _find_samplers(self.sampler):
            if callable(set_epoch := getattr(sampler, "set_epoch", None)):
                set_epoch(epoch)
        with _seeded(self.sampler, mix_seeds(self.seed, _DRAW, epoch)):
            if not self._in_batches:
                return _Drawn(_collect(iter(self.sampler)), None, state)
            batches = [list(batch) for batch in self.sampler]
            ends = np.cumsum([len(batch) for batch in batches], dtype=np.int64)
            return _Drawn(_collect(itertools.chain.from_iterable(batches)), ends, state)


def find_generators(sampler: Any) -> list[OwnGenerator]:
    """Return the generators that `sampler`, or a sampler inside it, keeps as attributes."""
    found: list[OwnGenerator] = []
    for one in _find_samplers(sampler):
        for value in getattr(one, "__dict__", {}).values():
            if is_generator(value) and not any(value is other for other in found):
                found.append(value)
    return found


class _Drawn:
    """One drawn epoch: the keys of its samples and, for a batch sampler, where each batch ends."""

    def __init__(self, indices: npt.NDArray[Any], ends: npt.NDArray[np.int64] | None, state: Any) -> None:
        self.indices = indices
        self.ends = ends
        self.state = state
        digest = xxhash.xxh3_128(repr(indices.tolist()).encode() if indices.dtype == object else indices.data)
        if ends is not None:
            digest.update(ends.data)
        self.digest: str = digest.hexdigest()

    def span(self, batch: int) -> tuple[int, int]:
        """Return the start and end of `batch` in the keys."""
        assert self.ends is not None
        return int(self.ends[batch - 1]) if batch else 0, int(self.ends[batch])


def _collect(items: Iterator[Any]) -> npt.NDArray[Any]:
    """Put an epoch's keys into one array: 8 bytes each if they are ints, as they almost always are."""
    try:
        first = next(items)
    except StopIteration:
        return np.empty(0, dtype=np.int64)
    items = itertools.chain([first], items)
    if hasattr(first, "__index__"):
        return np.fromiter(map(operator.index, items), dtype=np.int64)
    kept = list(items)
    keys = np.empty(len(kept), dtype=object)
    for place, key in enumerate(kept):  # one by one, because a list of tuples would become a table
        keys[place] = key
    return keys


@contextlib.contextmanager
def _seeded(sampler: Any, seed: int) -> Iterator[None]:
    """Seed all generators that `sampler` may draw from, and restore them afterwards."""
    shared = global_generators()
    own = find_generators(sampler)
    shared_states = [generator.capture() for generator in shared]
    own_states = [read_generator(generator) for generator in own]
    for number, generator in enumerate(shared):
        generator.seed(mix_seeds(seed, number))
    for number, one in enumerate(own):
        seed_generator(one, mix_seeds(seed, len(shared) + number))
    try:
        yield
    finally:
        for generator, state in zip(shared, shared_states, strict=True):
            generator.restore(state)
        for one, saved in zip(own, own_states, strict=True):
            write_generator(one, saved)


def _find_samplers(sampler: Any) -> list[Any]:
    """Return `sampler` and the samplers inside it, outermost first."""
    found: list[Any] = []
    waiting = [sampler]
    while waiting:
        one = waiting.pop(0)
        if any(one is other for other in found):
            continue
        found.append(one)
        for name, value in getattr(one, "__dict__", {}).items():
            if isinstance(value, TorchSampler) or name.lstrip("_") in _NESTED:
                waiting.append(value)
    return found
