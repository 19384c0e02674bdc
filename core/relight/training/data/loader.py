"""The loader of the training loop: any number of data-loading processes, resumable at every batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from relight.errors import RelightError, TaskError
from relight.training.data.batch_source import BatchSource, Collate
from relight.training.data.dealt_order import Deal, DealtOrder
from relight.training.data.loading_processes import (
    WorkerOptions,
    WorkerStart,
    end_workers,
    share_tensors,
    signals_blocked,
)
from relight.training.data.sampler import BatchKey, Order, Sampler, WeightedSampler
from relight.training.state.edge_copy import BuiltLater, open_copy
from relight.training.state.seeds import VALIDATION_EPOCH

_log = logging.getLogger("relight")


class Loader:
    """Yields an epoch's batches, and knows how many of its samples the loop has consumed.

    One stream of batches runs through all epochs, so workers load the next epoch during a validation.
    Neither creating nor using a loader draws from the global generators: 0 workers and 8 train the same.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_size: int,
        seed: int,
        epochs: int | None = None,
        workers: int = 0,
        collate: Collate | None = None,
        shuffle: bool = True,
        weights: Any = None,
        drop_last: bool = False,
        pin_memory: bool = False,
        deal: Deal | None = None,
    ) -> None:
        """Load batches of `batch_size` samples; with `deal`, this rank's part of each of them."""
        length = _count_samples(dataset)
        order: Order
        if weights is None:
            order = Sampler(length, batch_size=batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last)
        else:
            order = WeightedSampler(weights, batch_size=batch_size, seed=seed, drop_last=drop_last)
            if order.length != length:
                raise TaskError(
                    f"There are {order.length:,} sampling weights for {length:,} samples. Give one per sample."
                )
        if deal is not None:
            order = DealtOrder(order, deal)
        self._set_up(
            dataset,
            order,
            epochs=epochs,
            collate=collate,
            options=WorkerOptions(workers=workers, pin_memory=pin_memory),
        )

    @classmethod
    def in_order(
        cls,
        dataset: Dataset[Any],
        order: Order,
        *,
        epochs: int | None = None,
        collate: Collate | None = None,
        options: WorkerOptions | None = None,
    ) -> Loader:
        """Make a loader whose batches another order names. The seed is saved, and a saved seed wins."""
        loader = cls.__new__(cls)
        loader._set_up(dataset, order, epochs=epochs, collate=collate, options=options or WorkerOptions())
        loader._seed_is_state = True
        return loader

    def _set_up(
        self,
        dataset: Dataset[Any],
        order: Order,
        *,
        epochs: int | None,
        collate: Collate | None,
        options: WorkerOptions,
    ) -> None:
        self.sampler = order
        self.dataset = dataset
        if order.batches == 0:
            raise TaskError(
                f"The training data has {order.length} samples, fewer than one batch of {order.batch_size}. "
                "Lower batch_size."
            )
        self.epoch = 0
        self.consumed = 0
        self.in_step = True
        self._seen = 0
        self._seed_is_state = False
        self._epochs = epochs
        self._options = options
        self._source = BatchSource(dataset, seed=order.seed, collate=collate)
        self._stream: _Stream | None = None

    @property
    def batches(self) -> int:
        """Batches of one epoch."""
        return self.sampler.batches

    @property
    def batch(self) -> int:
        """Batches of this epoch that the loop has consumed."""
        return -(-self.consumed // self.sampler.batch_size)

    @property
    def remaining(self) -> int:
        """Batches left in this epoch."""
        return -(-(self.sampler.samples_of(self.epoch) - self.consumed) // self.sampler.batch_size)

    @property
    def has_ended_epoch(self) -> bool:
        """Whether the loop has consumed all of this epoch, and the next one has not begun."""
        return 0 < self.consumed >= self.sampler.samples_of(self.epoch)

    def __len__(self) -> int:
        """Return the batches of one epoch, as PyTorch's loaders do."""
        return self.sampler.batches

    def open(self) -> None:
        """Start the data-loading processes at the current position, unless they are already running."""
        if self._stream is None:
            self._stream = _Stream(self._source, self.sampler, options=self._options, epochs=self._epochs)
        self._stream.start(self.epoch, self.consumed)

    def __iter__(self) -> Iterator[Any]:
        """Yield the rest of the current epoch, then move on to the next."""
        self.open()
        stream = self._stream
        assert stream is not None
        samples = self.sampler.samples_of(self.epoch)
        while self.consumed < samples:
            self.consumed, digest, batch = next(stream.batches)
            self._seen = hash((self._seen, digest))
            yield batch
        self.next_epoch()

    def next_epoch(self) -> None:
        """Go to the start of the next epoch and skip the rest of this one."""
        if self.consumed < self.sampler.samples_of(self.epoch):
            self.close()  # discards the batches that were loaded ahead
        self.epoch += 1
        self.consumed = 0

    def take_seen(self) -> int:
        """Return a digest of the batches that have been yielded since the last call; 0 for none."""
        seen, self._seen = self._seen, 0
        return seen

    def put_seen(self, digest: int) -> None:
        """Put a digest back that `take_seen` has returned."""
        self._seen = digest

    def state_dict(self) -> dict[str, Any]:
        """Return the position: what the loop has consumed, no matter what the workers have loaded ahead."""
        state: dict[str, Any] = open_copy(self.edge_state())
        return state

    def edge_state(self) -> BuiltLater:
        """Return the position of now, whose state is built when it is needed."""
        epoch = self.epoch
        return BuiltLater(self._build_state, (self.sampler.state(epoch), epoch, self.consumed, self.has_ended_epoch))

    def _build_state(self, order: dict[str, Any], epoch: int, consumed: int, ended: bool) -> dict[str, Any]:
        sampler = self.sampler
        return {
            **order,
            "epoch": epoch,
            "consumed": consumed,
            "epochs_done": epoch + ended,
            "seed": sampler.seed,
            "length": sampler.length,
            "batch_size": sampler.batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raise `TaskError` when the data's length, and so the order, has changed."""
        if state["length"] != self.sampler.length:
            raise TaskError(
                f"The training data has {self.sampler.length:,} samples now, but had {state['length']:,} when "
                "the checkpoint was saved. Restore the data, or start a new run."
            )
        self.close()
        if self._seed_is_state:
            self.sampler.seed = self._source.seed = int(state["seed"])
        self.sampler.load_state(state)
        self.epoch, self.consumed = int(state["epoch"]), int(state["consumed"])

    def load_branch_state(self, state: dict[str, Any]) -> None:
        """Load a parent's position. If the branch's data has another length, start the epoch again."""
        if state["length"] != self.sampler.length:
            _log.info(
                "The training data has %s samples, the parent's had %s, so epoch %d starts again.",
                f"{self.sampler.length:,}", f"{state['length']:,}", int(state["epoch"]) + 1,
            )  # fmt: skip
            self.close()
            self.epoch, self.consumed = int(state["epoch"]), 0
        else:
            self.load_state_dict({**state, "order": ""})  # a custom sampler may have changed

    def close(self) -> None:
        """End the data-loading processes."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class ValidationLoader:
    """Yields the same batches in the same order every time; its processes stay from one validation to the next."""

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        collate: Collate | None = None,
        pin_memory: bool = False,
        deal: Deal | None = None,
    ) -> None:
        order: Order = Sampler(_count_samples(dataset), batch_size=batch_size, seed=seed, shuffle=False)
        self.sampler = order if deal is None else DealtOrder(order, deal)
        self._source = BatchSource(dataset, seed=seed, collate=collate)
        options = WorkerOptions(workers=workers, pin_memory=pin_memory)
        self._loader = (
            _make_data_loader(self._source, _Keys(self.sampler), options, persistent=True) if workers else None
        )
        self._iterator: Any = None

    @property
    def batches(self) -> int:
        """Batches of one validation."""
        return self.sampler.batches

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Yield (batch, number of its samples on all ranks)."""
        if self._loader is None:
            for key in _Keys(self.sampler):
                yield self._source(key), key.stop - key.start
            return
        with signals_blocked():
            self._iterator = iter(self._loader)  # restarts the same persistent iterator
        begin = 0
        for stop, _, batch in map(_unwrap, self._iterator):
            yield batch, stop - begin
            begin = stop

    def close(self) -> None:
        """End the data-loading processes."""
        end_workers(self._iterator)
        self._iterator = None
        if self._loader is not None:
            self._loader._iterator = None


_Loaded = tuple[int, int, Any]
"""The start of the next batch, the digest of the batch's key, and the batch."""


class _Keys:
    """The keys of a validation, the same every time."""

    def __init__(self, sampler: Order) -> None:
        self._sampler = sampler

    def __iter__(self) -> Iterator[BatchKey]:
        for key in self._sampler.keys(epoch=0):
            yield BatchKey(VALIDATION_EPOCH, key.start, key.indices, key.stop)

    def __len__(self) -> int:
        return self._sampler.batches


class _KeyedDataset(Dataset[Any]):
    """The data set that PyTorch's DataLoader sees: its workers pass a key to `__getitems__` and get a whole batch."""

    def __init__(self, source: BatchSource, *, length: int = 1) -> None:
        self._source = source
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: Any) -> Any:
        raise NotImplementedError("batches are loaded by key")

    def __getitems__(self, key: BatchKey) -> _Loaded:
        try:
            batch = self._source(key)
            share_tensors(batch)
        except RelightError as error:
            batch = _Failure(error)  # as a value, because the DataLoader would bury the message in a traceback
        return key.stop, key.digest(), batch


@dataclass(frozen=True)
class _Failure:
    error: RelightError


class _Stream:
    """The batches from one position on, in order, from this process or from workers.

    One stream runs through all epochs if their orders may be drawn ahead. Otherwise its workers wait at the end
    of each epoch until the next one starts.
    """

    def __init__(self, source: BatchSource, order: Order, *, options: WorkerOptions, epochs: int | None) -> None:
        self._source = source
        self._order = order
        self._options = options
        self._epochs = epochs
        self._started: int | None = None
        self._keys = _StreamKeys()
        self._loader = (
            _make_data_loader(source, self._keys, options, persistent=not order.ahead) if options.workers else None
        )
        self._iterator: Any = None
        self.batches: Iterator[_Loaded] = iter(())

    def start(self, epoch: int, consumed: int) -> None:
        """Start loading at this position, unless loading is already under way."""
        if self._started is not None and (self._order.ahead or self._started == epoch):
            return
        self._started = epoch
        self._keys.keys = self._name(epoch, consumed)
        if self._loader is None:
            source = self._source
            self.batches = ((key.stop, key.digest(), source(key)) for key in self._keys)
            return
        with signals_blocked():
            self._iterator = iter(self._loader)
        self.batches = map(_unwrap, self._iterator)

    def close(self) -> None:
        """End the workers."""
        end_workers(self._iterator)
        self._iterator = None
        self.batches = iter(())

    def _name(self, epoch: int, start: int) -> Iterator[BatchKey]:
        if not self._order.ahead:
            return self._order.keys(epoch=epoch, start=start)
        return self._name_all(epoch, start)

    def _name_all(self, epoch: int, start: int) -> Iterator[BatchKey]:
        while self._epochs is None or epoch < self._epochs:
            yield from self._order.keys(epoch=epoch, start=start)
            epoch, start = epoch + 1, 0


class _StreamKeys:
    """The keys to load next. For another epoch, `keys` is replaced."""

    def __init__(self) -> None:
        self.keys: Iterator[BatchKey] = iter(())

    def __iter__(self) -> Iterator[BatchKey]:
        return self.keys


def _make_data_loader(
    source: BatchSource, keys: Any, options: WorkerOptions, *, persistent: bool = False
) -> DataLoader[Any]:
    return DataLoader(
        _KeyedDataset(source),
        batch_sampler=keys,
        num_workers=options.workers,
        collate_fn=_pass_through,
        pin_memory=options.pin_memory,
        timeout=options.timeout_s,
        prefetch_factor=options.prefetch,
        multiprocessing_context=options.context,
        worker_init_fn=WorkerStart(options.prepare),
        persistent_workers=persistent,
        generator=torch.Generator(),  # else its base seed is drawn from the global generator
    )


def _unwrap(loaded: _Loaded) -> _Loaded:
    if isinstance(loaded[2], _Failure):
        raise loaded[2].error
    return loaded


def _pass_through(batch: Any) -> Any:
    return batch


def _count_samples(dataset: Dataset[Any]) -> int:
    try:
        length = len(dataset)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError) as error:
        raise TaskError(
            f"{type(dataset).__name__} has no length. A task's data sets need __len__ and integer indices."
        ) from error
    if length < 1:
        raise TaskError(f"{type(dataset).__name__} is empty. Training needs at least one sample.")
    return length


def move_batch(batch: Any, device: torch.device) -> Any:
    """Move every tensor in `batch`, however nested, to `device`; from pinned memory without waiting."""
    if device.type == "cuda":
        return _map_tensors(batch, lambda tensor: _pin(tensor).to(device, non_blocking=True))
    return batch if device.type == "cpu" else _map_tensors(batch, lambda tensor: tensor.to(device))


def _pin(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.pin_memory() if tensor.device.type == "cpu" and not tensor.is_pinned() else tensor


def _map_tensors(value: Any, move: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return move(value)
    if isinstance(value, dict):
        return {key: _map_tensors(inner, move) for key, inner in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map_tensors(inner, move) for inner in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_map_tensors(inner, move) for inner in value)
    return value
