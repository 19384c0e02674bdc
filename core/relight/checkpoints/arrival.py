"""Writing a pack while its snapshot is still being copied into the writer's memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import xxhash

from relight.checkpoints.file_stream import merge_adjacent
from relight.checkpoints.manifest import Manifest
from relight.checkpoints.pack import order_for_pack
from relight.checkpoints.sharing import place_tensors
from relight.checkpoints.snapshot_header import TensorSpec

_FIRST_BATCH_BYTES = 256 << 10
_LARGEST_BATCH_BYTES = 32 << 20


class Abandoned(Exception):
    """The trainer gave the snapshot up, or died, before it was complete."""


class WrongGuess(Exception):
    """The pack has to hold other tensors than expected."""


class Arrival:
    """How much of a snapshot has arrived. One thread reports progress, and others wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._copied = 0
        self._state: Literal["arriving", "complete", "abandoned"] = "arriving"

    def note_copied(self, count: int) -> None:
        """Report that the first `count` tensors, in pack order, have arrived."""
        with self._changed:
            self._copied = count
            self._changed.notify_all()

    def complete(self) -> None:
        """Report that everything has arrived, and that the snapshot is to become a checkpoint."""
        self._end("complete")

    def abandon(self) -> None:
        """Report that the rest will never arrive."""
        self._end("abandoned")

    def wait_for(self, count: int) -> None:
        """Wait until the first `count` tensors have arrived. Raises `Abandoned`."""
        with self._changed:
            self._changed.wait_for(lambda: self._copied >= count or self._state != "arriving")
            if self._state == "abandoned":
                raise Abandoned

    def wait_until_complete(self) -> None:
        """Wait until everything has arrived. Raises `Abandoned`."""
        with self._changed:
            self._changed.wait_for(lambda: self._state != "arriving")
            if self._state == "abandoned":
                raise Abandoned

    def _end(self, state: Literal["complete", "abandoned"]) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()


class ArrivingPack:
    """The data of a pack, whose first tensors can be written while later ones are still being copied.

    Hashing starts after the last copy. Until then the training is stopped, and hashing would compete with it for cores.
    """

    def __init__(
        self,
        tensors: Sequence[TensorSpec],
        buffers: Sequence[memoryview],
        *,
        written: Sequence[int],
        parent: Manifest,
        arrival: Arrival,
    ) -> None:
        """`written` are the indices of the tensors that the pack is expected to hold, in pack order."""
        self.digests = [""] * len(tensors)
        self._tensors = tensors
        self._buffers = buffers
        self._written = tuple(written)
        self._expected = frozenset(written)
        self._parent = parent
        self._before = {entry.name: entry.digest for entry in parent.tensors}
        self._arrival = arrival

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the bytes in order. At the end the snapshot is complete, and so are `digests`.

        Raises `WrongGuess` as soon as a digest shows that the pack has to hold other tensors, or `Abandoned`.
        """
        batches = self._make_batches()
        pool = ThreadPoolExecutor(1, thread_name_prefix="relight-hash")
        try:
            hashed = deque(pool.submit(self._hash, batch) for _, batch in batches)
            for count, batch in batches:
                self._arrival.wait_for(count)
                while hashed and hashed[0].done():
                    self._refuse_known(hashed.popleft().result())
                yield from merge_adjacent(self._buffers[i] for i in batch if i in self._expected)
            for future in hashed:
                self._refuse_known(future.result())
        finally:
            pool.shutdown(cancel_futures=True)
        if place_tensors(self._tensors, self.digests, parent=self._parent).written != self._written:
            raise WrongGuess

    def _make_batches(self) -> list[tuple[int, list[int]]]:
        """Return batches of tensors in pack order, each with the number of tensors that must have arrived for it."""
        batches: list[tuple[int, list[int]]] = []
        batch: list[int] = []
        nbytes, limit = 0, _FIRST_BATCH_BYTES
        for count, i in enumerate(order_for_pack(self._tensors), 1):
            batch.append(i)
            nbytes += self._tensors[i].nbytes
            if nbytes >= limit or count == len(self._tensors):
                batches.append((count, batch))
                batch, nbytes, limit = [], 0, min(2 * limit, _LARGEST_BATCH_BYTES)
        return batches

    def _hash(self, batch: list[int]) -> list[int]:
        self._arrival.wait_until_complete()
        for i in batch:
            self.digests[i] = xxhash.xxh3_128_hexdigest(self._buffers[i])
        return batch

    def _refuse_known(self, batch: list[int]) -> None:
        if any(self._before.get(self._tensors[i].name) == self.digests[i] for i in batch if i in self._expected):
            raise WrongGuess
