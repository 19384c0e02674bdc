"""Replaces a person's `DataLoader` by one with the same data, samplers and options that is resumable at every batch.

| their loader has | ours does |
| --- | --- |
| `shuffle`, `RandomSampler`, `SubsetRandomSampler`, `WeightedRandomSampler` | our own order of the same kind |
| `DistributedSampler` | one order, dealt to the ranks, without its padding |
| any other sampler or batch sampler with a length | draws a whole epoch at once, seeded for that epoch |
| an `IterableDataset` with `state_dict` and `load_state_dict` | continues from its own state, see `stream_loader` |
| one without, in torchdata's `StatefulDataLoader` | reads again from the start of the epoch |
| anything else | refuses, with one sentence that says what and why |
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data.distributed import DistributedSampler

from relight.errors import TaskError
from relight.training.data.dealt_order import Deal, DealtOrder
from relight.training.data.drawn_order import DrawnOrder, find_generators
from relight.training.data.loader import Loader
from relight.training.data.loading_processes import WorkerOptions
from relight.training.data.sampler import Order, Sampler, WeightedSampler
from relight.training.data.stream_loader import StreamLoader, has_state
from relight.training.state.own_generators import beginning_of
from relight.training.state.seeds import mix_seeds

_MANY = 10_000_000
"""An order of more draws than this is never drawn as a whole."""
# These draw only from their own generator, so their next epoch may be drawn during this one.
_PURE = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)


class ResumableLoader(Protocol):
    """What the training loop needs from a loader."""

    epoch: int
    consumed: int

    @property
    def batches(self) -> int:
        """Batches of one epoch."""

    @property
    def batch(self) -> int:
        """Batches of this epoch that the loop has consumed."""

    @property
    def has_ended_epoch(self) -> bool:
        """Whether the loop has consumed all of this epoch, as far as the data reveals it."""

    def __len__(self) -> int:
        """Return the batches of one epoch, as PyTorch's loaders do."""

    def __iter__(self) -> Any:
        """Yield the rest of the current epoch, then move on to the next."""

    def open(self) -> None:
        """Start the data-loading processes at the current position."""

    def next_epoch(self) -> None:
        """Go to the start of the next epoch, leaving out what is left of this one."""

    def take_seen(self) -> int:
        """Return a digest of the batches that have been yielded since the last call; 0 for none."""

    def put_seen(self, digest: int) -> None:
        """Put a digest back that `take_seen` has returned."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""

    def edge_state(self) -> Any:
        """Return the position as it can be kept at each step edge, for `open_copy`."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""

    def close(self) -> None:
        """End the data-loading processes."""


def adopt_loader(
    loader: DataLoader[Any], *, seed: int, epochs: int | None = None, deal: Deal | None = None
) -> Loader | StreamLoader:
    """Return a loader with the data and options of `loader` that resumes exactly.

    Its batches have the same distribution as PyTorch's, but are drawn by seed and epoch; `loader` itself is no longer
    used. Random numbers are seeded for each sample, as in `Loader`. With `deal`, all ranks train one order together,
    and this one gets batches as large as those of `loader`. Raise `TaskError`, with what and why, when a resume could
    not be exact.
    """
    seed = mix_seeds(seed, *_initial_seeds(loader))
    options = WorkerOptions(
        workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        prefetch=loader.prefetch_factor,
        timeout_s=loader.timeout,
        context=loader.multiprocessing_context,
        prepare=loader.worker_init_fn,
    )
    if isinstance(loader.dataset, IterableDataset):
        return _take_over_stream(loader, loader.dataset, seed, options)
    dataset, order = _take_over(loader, loader.dataset, seed, deal)
    collate = None if loader.collate_fn is default_collate else loader.collate_fn
    adopted = Loader.in_order(dataset, order, epochs=epochs, collate=collate, options=options)
    adopted.dataset = loader.dataset
    return adopted


def _take_over(
    loader: DataLoader[Any], dataset: Dataset[Any], seed: int, deal: Deal | None
) -> tuple[Dataset[Any], Order]:
    outer = loader.batch_sampler
    if outer is None:
        raise TaskError(
            "A DataLoader with batch_size=None yields samples instead of batches. Give it a batch_size or a "
            "batch_sampler, or do not track it."
        )
    length = _length_of(dataset, "data set")
    if type(outer) is BatchSampler:
        _length_of(outer.sampler, "sampler")
    if length == 0 or _length_of(outer, "batch sampler") == 0:
        raise TaskError(f"{type(dataset).__name__} yields no batch. Training needs at least one.")
    if type(outer) is not BatchSampler:
        if deal is not None:
            raise TaskError(
                f"{type(outer).__name__} chooses whole batches, which cannot be dealt to {deal.world_size} ranks. Use "
                "a sampler and a batch_size."
            )
        drawn = DrawnOrder(outer, length=length, batch_size=None, seed=seed, drop_last=False, ahead=False)
        drawn.check()
        return dataset, drawn
    sampler: Any = outer.sampler
    if type(sampler) is DistributedSampler:
        return dataset, _deal(sampler, outer)
    if deal is None or isinstance(sampler, DistributedSampler):  # a class of their own has an order of its own
        return _order_batches(dataset, sampler, seed, batch_size=outer.batch_size, drop_last=outer.drop_last)
    dataset, whole = _order_batches(
        dataset, sampler, seed, batch_size=outer.batch_size * deal.world_size, drop_last=outer.drop_last
    )
    return dataset, DealtOrder(whole, deal)


def _order_batches(
    dataset: Dataset[Any], sampler: Any, seed: int, *, batch_size: int, drop_last: bool
) -> tuple[Dataset[Any], Order]:
    """Return an order of the same kind as the sampler's, and the data set that its indices are of."""
    length = len(dataset)  # type: ignore[arg-type]
    if type(sampler) is SubsetRandomSampler:
        subset = Subset(dataset, np.asarray(sampler.indices, dtype=np.int64))  # type: ignore[arg-type]
        return subset, Sampler(len(sampler), batch_size=batch_size, seed=seed, drop_last=drop_last)
    if type(sampler) in (SequentialSampler, RandomSampler) and _covers(sampler, length):
        shuffle = type(sampler) is RandomSampler
        return dataset, Sampler(length, batch_size=batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last)
    if type(sampler) is RandomSampler and sampler.replacement and len(sampler) > _MANY:
        # minGPT draws 10^10 times an epoch: as a sampler with equal weights, any of them is reached at once.
        return dataset, WeightedSampler(
            np.ones(length), batch_size=batch_size, seed=seed, per_epoch=len(sampler), drop_last=drop_last
        )
    if type(sampler) is WeightedRandomSampler and sampler.replacement:
        return dataset, WeightedSampler(
            sampler.weights.numpy(), batch_size=batch_size, seed=seed, per_epoch=len(sampler), drop_last=drop_last
        )
    ahead = type(sampler) in _PURE
    drawn = DrawnOrder(sampler, length=length, batch_size=batch_size, seed=seed, drop_last=drop_last, ahead=ahead)
    if not ahead:
        drawn.check()
    return dataset, drawn


def _deal(sampler: DistributedSampler[Any], batches: BatchSampler) -> Order:
    """Deal one order to the ranks. Its seed is the sampler's: a script may have seeded its ranks differently."""
    whole = Sampler(
        _length_of(sampler.dataset, "data set"),
        batch_size=batches.batch_size * sampler.num_replicas,
        seed=mix_seeds(sampler.seed),
        shuffle=sampler.shuffle,
        drop_last=batches.drop_last,
    )
    return DealtOrder(whole, Deal(sampler.rank, sampler.num_replicas))


def _take_over_stream(
    loader: DataLoader[Any], dataset: IterableDataset[Any], seed: int, options: WorkerOptions
) -> StreamLoader:
    # torchdata's StatefulDataLoader reads a data set without a state again from the start: using it is the opt-in.
    replay = hasattr(loader, "load_state_dict") and not has_state(dataset)
    if not replay and not has_state(dataset):
        raise TaskError(
            f"{type(dataset).__name__} is an iterable data set without a state, so a resume cannot find its position. "
            "Give it state_dict() and load_state_dict(), make it a map-style data set, or use torchdata's "
            "StatefulDataLoader, which reads it again up to that position."
        )
    return StreamLoader(
        dataset,
        batch_size=loader.batch_size,
        seed=seed,
        drop_last=loader.drop_last,
        collate=loader.collate_fn,
        replay=replay,
        options=options,
    )


def _covers(sampler: Any, length: int) -> bool:
    """Tell whether `sampler` yields each sample of the data once an epoch."""
    whole = len(sampler.data_source) == len(sampler) == length
    return whole and not (isinstance(sampler, RandomSampler) and sampler.replacement)


def _length_of(sized: Any, what: str) -> int:
    try:
        return len(sized)
    except (TypeError, NotImplementedError):
        raise TaskError(
            f"The {what} {type(sized).__name__} has no length, so the length of an epoch is unknown. Give it __len__."
        ) from None


def _initial_seeds(loader: DataLoader[Any]) -> list[int]:
    """Return the initial seeds of the generators made for shuffling, so that other seeds give another order."""
    generators = find_generators(loader.batch_sampler)
    if isinstance(loader.generator, torch.Generator) and loader.generator not in generators:
        generators.append(loader.generator)
    return [beginning_of(generator) for generator in generators]
