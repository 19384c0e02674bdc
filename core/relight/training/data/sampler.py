"""The order of the training data: seed and epoch determine an epoch's batches, a position the rest of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from relight.errors import TaskError

Indices = npt.NDArray[np.int32] | npt.NDArray[np.int64]

_CHUNK = 65_536  # draws of one generator, so that a position can be reached without making all draws before it


class BatchKey(NamedTuple):
    """Names one batch: any process that loads it gets the same samples with the same random numbers."""

    epoch: int
    start: int
    """Number of samples of the epoch before this batch."""
    indices: Indices | npt.NDArray[Any]
    stop: int
    """Start of the next batch."""
    numbers: Indices | None = None
    """Numbers that seed each sample when a sample may occur twice in an epoch; None for its index."""

    def digest(self) -> int:
        """Return a digest of the samples and of the random numbers that they are drawn with."""
        digest = _digest(self.indices, self.epoch)
        return digest if self.numbers is None else _digest(self.numbers, digest)


def _digest(indices: npt.NDArray[Any], seed: int) -> int:
    if indices.dtype.hasobject:  # a batch sampler may yield keys of any kind
        return xxhash.xxh3_64_intdigest(repr(indices.tolist()).encode(), seed)
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(indices).data, seed)


class Order(Protocol):
    """Names the batches of every epoch. A position is counted in samples, or in batches where `batch_size` is 1."""

    seed: int
    length: int
    """Number of samples in the data. Data with another length would have another order."""
    batch_size: int
    ahead: bool
    """Whether an epoch's order may be drawn before the previous epoch has ended."""

    @property
    def samples(self) -> int:
        """Length of one epoch, in samples or batches."""

    @property
    def batches(self) -> int:
        """Batches of one epoch."""

    def samples_of(self, epoch: int) -> int:
        """Length of this epoch, if epochs differ."""

    def keys(self, *, epoch: int, start: int = 0) -> Iterator[BatchKey]:
        """Name the batches of `epoch` in order, starting with the one at `start`."""

    def state(self, epoch: int) -> dict[str, Any]:
        """Return what a resume in `epoch` needs in addition to seed and position."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a saved `state`, which may have more keys."""


class _FixedOrder:
    """An order that depends only on seed and epoch, and whose epochs all have the same number of samples."""

    ahead = True

    def __init__(self, *, length: int, per_epoch: int, batch_size: int, seed: int, drop_last: bool) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.samples = per_epoch - per_epoch % batch_size if drop_last else per_epoch
        """Samples of one epoch: all, or as many as fill whole batches."""

    @property
    def batches(self) -> int:
        """Batches of one epoch."""
        return -(-self.samples // self.batch_size)

    def samples_of(self, _: int) -> int:
        """Return `samples`: all epochs are the same."""
        return self.samples

    def state(self, _: int) -> dict[str, Any]:
        """Return nothing: seed and position are enough."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load nothing."""

    def _spans(self, start: int) -> Iterator[tuple[int, int]]:
        samples = self.samples
        while start < samples:
            stop = min(start + self.batch_size, samples)
            yield start, stop
            start = stop


class Sampler(_FixedOrder):
    """Shuffles `length` samples differently in each epoch.

    The permutation is one array of 4 bytes for each sample, shuffled in place by `RandomState`, whose stream NumPy
    promises never to change: ten million samples take 40 MB and half a second, and a later NumPy gives the same order.
    """

    def __init__(
        self, length: int, *, batch_size: int, seed: int, shuffle: bool = True, drop_last: bool = False
    ) -> None:
        if length < 1:
            raise ValueError("a sampler needs at least one sample")
        super().__init__(length=length, per_epoch=length, batch_size=batch_size, seed=seed, drop_last=drop_last)
        self.shuffle = shuffle

    def permutation(self, epoch: int) -> Indices:
        """Return the order of the samples in `epoch`, counted from 0."""
        small = self.length < 2**31
        order: Indices = np.arange(self.length, dtype=np.int32) if small else np.arange(self.length, dtype=np.int64)
        if self.shuffle:
            _generator(self.seed, epoch).shuffle(order)
        return order

    def keys(self, *, epoch: int, start: int = 0) -> Iterator[BatchKey]:
        """Name the batches of `epoch` in order, starting with the one after `start` samples."""
        order = self.permutation(epoch)
        for begin, stop in self._spans(start):
            # A copy: a view would pickle or keep the whole order.
            yield BatchKey(epoch, begin, order[begin:stop].astype(np.int64), stop)


class WeightedSampler(_FixedOrder):
    """Draws samples with replacement in proportion to their weights: `per_epoch` in an epoch, by default `length`.

    It stores the running sum of the weights, 8 bytes for each sample. Each chunk of draws has its own generator, so any
    position can be reached at once. A sample that occurs twice in an epoch is augmented differently each time.
    """

    def __init__(
        self,
        weights: npt.ArrayLike,
        *,
        batch_size: int,
        seed: int,
        per_epoch: int | None = None,
        drop_last: bool = False,
    ) -> None:
        numbers = np.asarray(weights, dtype=np.float64)
        if numbers.ndim != 1 or not len(numbers):
            raise TaskError(f"The sampling weights have the shape {list(numbers.shape)}. Give one number per sample.")
        if not np.isfinite(numbers).all() or numbers.min() < 0 or not numbers.any():
            raise TaskError("The sampling weights must be finite, none below 0, and at least one above 0.")
        length = len(numbers)
        super().__init__(
            length=length, per_epoch=per_epoch or length, batch_size=batch_size, seed=seed, drop_last=drop_last
        )
        self._last = length - 1 - int(np.argmax(numbers[::-1] > 0))
        self._sums = np.cumsum(numbers)

    def draw(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the draws from `start` up to `stop` of `epoch`."""
        parts = []
        for chunk in range(start // _CHUNK, -(-stop // _CHUNK)):
            first = chunk * _CHUNK
            parts.append(self._draw_chunk(epoch, chunk)[max(0, start - first) : stop - first])
        return np.concatenate(parts)

    def keys(self, *, epoch: int, start: int = 0) -> Iterator[BatchKey]:
        """Name the batches of `epoch` in order, starting with the one after `start` draws."""
        held = -1
        order: Indices = np.empty(0, dtype=np.int64)
        indices: Indices
        for begin, stop in self._spans(start):
            if begin // _CHUNK == (stop - 1) // _CHUNK:
                if held != begin // _CHUNK:
                    held = begin // _CHUNK
                    order = self._draw_chunk(epoch, held)
                indices = order[begin - held * _CHUNK : stop - held * _CHUNK].copy()
            else:
                indices = self.draw(epoch, begin, stop)
            yield BatchKey(epoch, begin, indices, stop, np.arange(begin, stop))

    def _draw_chunk(self, epoch: int, chunk: int) -> npt.NDArray[np.int64]:
        draws = _generator(self.seed, epoch, chunk).random_sample(_CHUNK) * self._sums[-1]
        # A weight of 0 is never drawn, because its sum equals its predecessor's. Rounding may reach the total itself.
        found: npt.NDArray[np.int64] = np.minimum(np.searchsorted(self._sums, draws, side="right"), self._last)
        return found


def _generator(*seeds: int) -> np.random.RandomState:
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seeds)))
