"""One global order, dealt to the ranks: each takes its share of every batch, so together they train each sample once.

Positions are those of the global order. So a resume with another number of ranks continues with the next sample: none
is skipped, and none is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relight.training.data.sampler import BatchKey, Order


class Deal:
    """Which part of a batch is whose: contiguous, as equal as possible, and the first ranks get more."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size

    def part(self, samples: int) -> slice:
        """Return this rank's part of a batch; empty if there are fewer samples than ranks."""
        return slice(-(-samples * self.rank // self.world_size), -(-samples * (self.rank + 1) // self.world_size))

    def count(self, samples: int) -> int:
        """Return how many samples of a batch are this rank's."""
        return len(range(samples)[self.part(samples)])

    def weight(self, samples: int) -> float:
        """Return what to multiply a mean over this rank's part with, so that the ranks' average is the batch's mean."""
        return self.count(samples) * self.world_size / samples


class DealtOrder:
    """This rank's share of `whole`, an order whose batches all ranks train together."""

    def __init__(self, whole: Order, deal: Deal) -> None:
        self.whole = whole
        self.deal = deal
        self.length = whole.length
        self.batch_size = whole.batch_size
        """Samples of one batch of all ranks."""
        self.ahead = whole.ahead

    @property
    def seed(self) -> int:
        """The seed of the whole order."""
        return self.whole.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.whole.seed = seed

    @property
    def samples(self) -> int:
        """Length of one epoch of all ranks."""
        return self.whole.samples

    @property
    def batches(self) -> int:
        """Batches of one epoch: the same for every rank."""
        return self.whole.batches

    def samples_of(self, epoch: int) -> int:
        """Length of this epoch."""
        return self.whole.samples_of(epoch)

    def keys(self, *, epoch: int, start: int = 0) -> Iterator[BatchKey]:
        """Name this rank's part of each batch.

        A part is never empty, since no model takes an empty batch: a rank without a sample repeats the batch's first.
        """
        for key in self.whole.keys(epoch=epoch, start=start):
            part = self.deal.part(len(key.indices))
            if part.start == part.stop:
                part = slice(0, 1)
            numbers = None if key.numbers is None else key.numbers[part]
            yield key._replace(indices=key.indices[part].copy(), numbers=numbers)

    def state(self, epoch: int) -> dict[str, Any]:
        """Return what a resume in `epoch` needs in addition to seed and position."""
        return self.whole.state(epoch)

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a saved `state`."""
        self.whole.load_state(state)
