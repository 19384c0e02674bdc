"""The order of the training data: seed and epoch give a permutation, a position gives the rest of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int32] | npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchKey:
    """Names one batch: whichever process loads it gets the same samples with the same random numbers."""

    epoch: int
    start: int
    """Samples of the epoch that come before this batch."""
    indices: Indices


class Sampler:
    """Shuffles `length` samples anew for each epoch.

    The permutation is one array of 4 bytes a sample, shuffled in place by `RandomState`, whose stream NumPy promises
    never to change: ten million samples take 40 MB and half a second, and a later NumPy still gives the same order.
    """

    def __init__(
        self, length: int, *, batch_size: int, seed: int, shuffle: bool = True, drop_last: bool = False
    ) -> None:
        if length < 1:
            raise ValueError("a sampler needs at least one sample")
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last

    @property
    def samples(self) -> int:
        """Samples of one epoch: all, or as many as fill whole batches."""
        return self.length - self.length % self.batch_size if self.drop_last else self.length

    @property
    def batches(self) -> int:
        """Batches of one epoch."""
        return -(-self.samples // self.batch_size)

    def permutation(self, epoch: int) -> Indices:
        """Return the order of the samples in `epoch`, counted from 0."""
        small = self.length < 2**31
        order: Indices = np.arange(self.length, dtype=np.int32) if small else np.arange(self.length, dtype=np.int64)
        if self.shuffle:
            bits = np.random.MT19937(np.random.SeedSequence([self.seed, epoch]))
            np.random.RandomState(bits).shuffle(order)
        return order

    def keys(self, *, epoch: int, start: int = 0) -> Iterator[BatchKey]:
        """Name the batches of `epoch` in order, from the one that begins after `start` samples."""
        order = self.permutation(epoch)
        while start < self.samples:
            stop = min(start + self.batch_size, self.samples)
            yield BatchKey(
                epoch, start, order[start:stop].copy()
            )  # a copy: a view would pickle or keep the whole order
            start = stop
