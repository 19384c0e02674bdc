"""Loads batches of an iterable data set that can save its position; each batch carries its reader's state after it.

Only the data set knows where it is in a stream. So every batch travels with the state of the data set that made it. The
position is the state of each worker after the last of its batches that the loop consumed, and whose turn is next. It
does not matter if workers have read further ahead.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate, default_convert, get_worker_info
from torch.utils.data._utils import worker as torch_worker

from relight.errors import RelightError, TaskError
from relight.training.data.global_generators import global_generators
from relight.training.data.loading_processes import (
    WorkerOptions,
    WorkerStart,
    end_workers,
    share_tensors,
    signals_blocked,
)
from relight.training.state.seeds import mix_seeds

_log = logging.getLogger("relight")
_START = 2**62  # replaces the number of the batch in the seed for starting a reader


class StreamLoader:
    """Yields an epoch's batches from an iterable data set, resumable at every batch.

    The global generators are seeded for each batch and restored afterwards. With `replay`, a data set without a
    state is read again from the start of the epoch up to the position.
    """

    def __init__(
        self,
        dataset: IterableDataset[Any],
        *,
        batch_size: int | None,
        seed: int,
        drop_last: bool = False,
        collate: Callable[[Any], Any] | None = None,
        replay: bool = False,
        options: WorkerOptions | None = None,
    ) -> None:
        self.dataset = dataset
        self.epoch = 0
        self.consumed = 0
        self.in_step = True
        self._seen = 0
        self._seed = seed
        self._options = options or WorkerOptions()
        self._batch_size = batch_size
        self._drop_last = drop_last
        self._collate = collate or (default_convert if batch_size is None else default_collate)
        self._replay = replay
        self._positions: dict[int, _Position] = {}
        self._next = 0
        self._iterator: Iterator[_Fed] | None = None

    @property
    def batches(self) -> int:
        """Batches of one epoch; 0 if the data set does not know its length."""
        try:
            length = len(self.dataset)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            return 0
        size = self._batch_size or 1
        return length // size if self._drop_last else -(-length // size)

    @property
    def has_ended_epoch(self) -> bool:
        """Never: only the end of the data shows that a batch was the last one."""
        return False

    @property
    def batch(self) -> int:
        """Batches of this epoch that the loop has consumed."""
        return self.consumed

    def __len__(self) -> int:
        """Return the batches of one epoch. Raise `TypeError`, as PyTorch does, if the data set has no length."""
        if not (batches := self.batches):
            raise TypeError(f"{type(self.dataset).__name__} has no length")
        return batches

    def open(self) -> None:
        """Start reading at the current position, unless reading is already under way."""
        if self._iterator is None:
            feed = _Feed(
                self.dataset,
                batch_size=self._batch_size,
                drop_last=self._drop_last,
                collate=self._collate,
                seed=self._seed,
                replay=self._replay,
                prepare=self._options.prepare,
                epoch=self.epoch,
                first=self._next,
                positions=dict(self._positions),
            )
            self._iterator = self._start(feed)

    def __iter__(self) -> Iterator[Any]:
        """Yield the rest of the current epoch, then move on to the next."""
        self.open()
        while self._iterator is not None:
            fed = next(self._iterator, None)
            if fed is None:
                break
            if isinstance(fed.batch, RelightError):
                raise fed.batch
            self.consumed += 1
            self._seen = hash((self._seen, self.epoch, fed.reader, fed.batches))
            self._positions[fed.reader] = _Position(fed.batches, fed.ended, fed.state)
            self._next = (fed.reader + 1) % max(1, self._options.workers)
            yield fed.batch
        self.next_epoch()

    def next_epoch(self) -> None:
        """Go to the start of the next epoch and skip the rest of this one."""
        self.close()
        self.epoch += 1
        self.consumed = self._next = 0
        self._positions = {}

    def take_seen(self) -> int:
        """Return a digest of the batches that have been yielded since the last call; 0 for none."""
        seen, self._seen = self._seen, 0
        return seen

    def put_seen(self, digest: int) -> None:
        """Put a digest back that `take_seen` has returned."""
        self._seen = digest

    def state_dict(self) -> dict[str, Any]:
        """Return the position: what the loop has consumed, no matter what the workers have read ahead."""
        positions = self._positions
        if not positions and not self._options.workers and not self._replay:
            # When this process reads, the data set starts an epoch in the state that the last epoch left.
            positions = {0: _Position(0, False, _read_state(self.dataset, None))}
        return {
            "epoch": self.epoch,
            "consumed": self.consumed,
            "epochs_done": self.epoch,
            "seed": self._seed,
            "workers": self._options.workers,
            "next": self._next,
            "readers": {
                reader: {"batches": one.batches, "ended": one.ended, "state": one.state}
                for reader, one in sorted(positions.items())
            },
        }

    edge_state = state_dict

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raise `TaskError` when the number of workers, which split the data, has changed."""
        if state["workers"] != self._options.workers:
            raise TaskError(
                f"{type(self.dataset).__name__} was read by {state['workers']} workers, and is now read by "
                f"{self._options.workers}, each with its own part of the data. Resume with num_workers="
                f"{state['workers']}."
            )
        self.close()
        self.epoch, self.consumed = int(state["epoch"]), int(state["consumed"])
        self._seed, self._next = int(state["seed"]), int(state["next"])
        self._positions = {
            reader: _Position(one["batches"], one["ended"], one["state"]) for reader, one in state["readers"].items()
        }

    def load_branch_state(self, state: dict[str, Any]) -> None:
        """Load a parent's position. If the branch has another number of workers, start the epoch again."""
        if state["workers"] == self._options.workers:
            self.load_state_dict(state)
            return
        _log.info("The number of data workers has changed, so epoch %d starts again.", int(state["epoch"]) + 1)
        self.close()
        self.epoch, self.consumed, self._next, self._positions = int(state["epoch"]), 0, 0, {}

    def close(self) -> None:
        """End the reading and its processes."""
        end_workers(self._iterator)
        self._iterator = None

    def _start(self, feed: _Feed) -> Iterator[_Fed]:
        options = self._options
        if not options.workers:
            return iter(feed)
        loader: DataLoader[Any] = DataLoader(
            feed,
            batch_size=None,
            collate_fn=_pass_through,
            num_workers=options.workers,
            pin_memory=options.pin_memory,
            timeout=options.timeout_s,
            prefetch_factor=options.prefetch,
            multiprocessing_context=options.context,
            worker_init_fn=WorkerStart(None),
            generator=torch.Generator(),
        )
        with signals_blocked():
            return iter(loader)


class _Position(NamedTuple):
    """One reader's position in its part of the epoch: batches read, whether that is all, and the data set's state."""

    batches: int
    ended: bool
    state: Any


class _Fed(NamedTuple):
    """One batch, and its reader's position after it."""

    reader: int
    batches: int
    ended: bool
    state: Any
    batch: Any


@dataclass
class _Feed(IterableDataset[Any]):
    """The code that each reading process runs: it reads the data set in batches, starting at its position."""

    dataset: Any
    batch_size: int | None
    drop_last: bool
    collate: Callable[[Any], Any]
    seed: int
    replay: bool
    prepare: Callable[[int], None] | None
    epoch: int
    first: int
    positions: dict[int, _Position]

    def __iter__(self) -> Iterator[_Fed]:
        reader = self._take_place()
        try:
            yield from self._read(reader)
        except RelightError as error:  # as a value, because the DataLoader would bury the message in a traceback
            yield _Fed(reader, 0, True, None, error)

    def _take_place(self) -> int:
        """Return which part of the data this process reads. PyTorch always asks its first process first."""
        info = get_worker_info()
        if info is None:
            return 0
        reader: int = (info.id + self.first) % info.num_workers
        torch_worker._worker_info = torch_worker.WorkerInfo(
            id=reader, num_workers=info.num_workers, seed=info.seed, dataset=self.dataset
        )
        if self.prepare is not None:
            self.prepare(reader)
        return reader

    def _read(self, reader: int) -> Iterator[_Fed]:
        position = self.positions.get(reader)
        if position is not None and position.ended:
            if get_worker_info() is None and not self.replay:
                self._load(position)  # for the next epoch, which continues with the same data set
            return
        with _seeded(self.seed, self.epoch, reader, _START):
            iterator = self._start_reading(position)
        skip = position.batches if position is not None and self.replay else 0
        count = 0 if position is None or self.replay else position.batches
        while True:
            with _seeded(self.seed, self.epoch, reader, count):
                items = list(itertools.islice(iterator, self.batch_size or 1))
                short = len(items) < (self.batch_size or 1)
                if not items or (short and self.drop_last):
                    return
                if count < skip:
                    count += 1
                    continue
                batch = self.collate(items[0] if self.batch_size is None else items)
            count += 1
            share_tensors(batch)
            state = None if self.replay else _read_state(self.dataset, iterator)
            # Another thread of the worker sends it while this one continues reading.
            yield _Fed(reader, count, short, state if get_worker_info() is None else copy.deepcopy(state), batch)
            if short:
                return

    def _start_reading(self, position: _Position | None) -> Iterator[Any]:
        if callable(set_epoch := getattr(self.dataset, "set_epoch", None)):
            set_epoch(self.epoch)
        if position is not None and not self.replay:
            self._load(position)
        iterator: Any = iter(self.dataset)
        if position is not None and not self.replay and position.state["iterator"] is not None:
            iterator.load_state_dict(position.state["iterator"])
        started: Iterator[Any] = iterator
        return started

    def _load(self, position: _Position) -> None:
        if position.state["data"] is not None:
            self.dataset.load_state_dict(position.state["data"])


def has_state(dataset: Any) -> bool:
    """Tell whether a data set can save its position: itself or, as in torchdata, through its iterator."""
    return _is_stateful(dataset) or _is_stateful(iter(dataset))


def _is_stateful(one: Any) -> bool:
    return hasattr(one, "state_dict") and hasattr(one, "load_state_dict")


def _read_state(dataset: Any, iterator: Any) -> dict[str, Any]:
    return {
        "data": dataset.state_dict() if _is_stateful(dataset) else None,
        "iterator": iterator.state_dict() if iterator is not dataset and _is_stateful(iterator) else None,
    }


@contextlib.contextmanager
def _seeded(seed: int, *place: int) -> Iterator[None]:
    """Seed the global generators for one batch, and restore them afterwards."""
    generators = global_generators()
    states = [generator.capture() for generator in generators]
    own = mix_seeds(seed, *place)
    for generator in generators:
        generator.seed(own)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.restore(state)


def _pass_through(fed: Any) -> Any:
    return fed
