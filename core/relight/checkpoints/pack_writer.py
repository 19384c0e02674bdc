"""Writes a snapshot's pack durably, while the snapshot is still being copied if that is possible.

reserve -> stream -> sync -> rename -> sync folder

The stream may begin early, with the tensors that the parent checkpoint had to write. If the digests then show that
other tensors have to be written, that file is removed and the pack is written again from the beginning.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import xxhash

from relight.checkpoints.arrival import Arrival, ArrivingPack, WrongGuess
from relight.checkpoints.atomic_file import atomic_file, remove_if_possible
from relight.checkpoints.encoded_snapshot import EncodedSnapshot
from relight.checkpoints.file_names import CheckpointName, StoreLayout
from relight.checkpoints.file_operations import FileOperations
from relight.checkpoints.file_stream import FileStream, merge_adjacent
from relight.checkpoints.manifest import Manifest, PackEntry
from relight.checkpoints.pack import plan_pack
from relight.checkpoints.receipt import Receipt
from relight.checkpoints.sharing import guess_written, make_receipt, place_tensors
from relight.checkpoints.snapshot_header import TensorSpec
from relight.errors import DamagedCheckpoint

_HASH_THREADS = 2
_HASHED_APART_BYTES = 1 << 20


@dataclass(frozen=True)
class Target:
    """Where a snapshot is written: the name of the new checkpoint, its store, and the checkpoint before it."""

    name: CheckpointName
    layout: StoreLayout
    operations: FileOperations
    parent: Manifest | None
    """Tensors that it has with the same type, shape and digest are shared, not written."""
    rank: int | None = None
    """The rank whose part is written; None for a whole checkpoint."""

    @property
    def pack(self) -> str:
        """File name of the pack."""
        return self.name.pack_of(self.rank)


@dataclass(frozen=True)
class _WrittenPack:
    entry: PackEntry
    offsets: tuple[int, ...]
    """Of its tensors, from the beginning of the file."""


def write_pack(
    snapshot: EncodedSnapshot,
    buffers: Sequence[memoryview],
    *,
    target: Target,
    expected_digests: Mapping[str, str] | None = None,
    arrival: Arrival | None = None,
) -> Receipt:
    """Write the tensors that the parent does not have, durably, and return where all of them are.

    `buffers` are flat views of bytes, one for each tensor of `snapshot`. With `arrival` they need not be filled yet.
    Raises `OSError`, `DamagedCheckpoint` if a tensor does not match `expected_digests`, or `Abandoned` if the rest of
    the snapshot never arrives; nothing is left behind then.
    """
    assert len(buffers) == len(snapshot.tensors)
    for tensor, buffer in zip(snapshot.tensors, buffers, strict=True):
        assert len(buffer) == tensor.nbytes, tensor
    assert arrival is None or expected_digests is None
    early = None if arrival is None else _write_early(snapshot, buffers, arrival, target)
    if early is not None:
        pack, digests = early
        placement = place_tensors(snapshot.tensors, digests, parent=target.parent)
        return make_receipt(snapshot.tensors, digests, placement, new_pack=pack.entry, offsets=pack.offsets)
    digests = _hash_all(buffers)
    _compare(snapshot.tensors, digests, expected_digests or {})
    placement = place_tensors(snapshot.tensors, digests, parent=target.parent)
    if not placement.written:
        return make_receipt(snapshot.tensors, digests, placement, new_pack=None, offsets=())
    runs = merge_adjacent(buffers[i] for i in placement.written)
    pack = _write([snapshot.tensors[i] for i in placement.written], runs, target)
    return make_receipt(snapshot.tensors, digests, placement, new_pack=pack.entry, offsets=pack.offsets)


def discard_pack(receipt: Receipt, target: Target) -> None:
    """Delete the pack of a receipt that did not become part of a checkpoint.

    Otherwise each failed attempt would leave one, and fill a disk that is full already.
    """
    if receipt.new_pack is not None:
        remove_if_possible(target.layout.packs / receipt.new_pack.file, target.operations)


def _write_early(
    snapshot: EncodedSnapshot, buffers: Sequence[memoryview], arrival: Arrival, target: Target
) -> tuple[_WrittenPack, list[str]] | None:
    """Write the pack while its snapshot arrives, and return it with all digests; None if that did not work out.

    In both cases the snapshot has arrived completely.
    """
    guess = () if target.parent is None else guess_written(snapshot.tensors, target.parent, rank=target.rank)
    if target.parent is not None and guess:
        data = ArrivingPack(snapshot.tensors, buffers, written=guess, parent=target.parent, arrival=arrival)
        try:
            return _write([snapshot.tensors[i] for i in guess], data, target), data.digests
        except WrongGuess:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            # There may be room for the tensors that really have to be written.
    arrival.wait_until_complete()
    return None


def _write(tensors: Sequence[TensorSpec], data: Iterable[memoryview], target: Target) -> _WrittenPack:
    """Write a pack of `tensors`, whose bytes are `data`, in the same order."""
    name, operations = target.name, target.operations
    plan = plan_pack(tensors, metadata={"format": "pt", "relight_checkpoint": name.stem})
    path = target.layout.packs / target.pack
    with atomic_file(path, layout=target.layout, operations=operations, forget_cached=True) as file:
        operations.reserve(file, plan.bytes)
        stream = FileStream(operations, file)
        stream.write(memoryview(plan.header))
        for run in data:
            stream.write(run)
        length = stream.finish()
        assert length == plan.bytes, (length, plan.bytes)
    header_digest = xxhash.xxh3_128_hexdigest(plan.header)
    return _WrittenPack(PackEntry(target.pack, plan.bytes, len(plan.header), header_digest), plan.offsets)


def _hash_all(buffers: Sequence[memoryview]) -> list[str]:
    digests = ["" if len(buffer) >= _HASHED_APART_BYTES else _hash(buffer) for buffer in buffers]
    large = [i for i, digest in enumerate(digests) if not digest]
    if large:
        with ThreadPoolExecutor(_HASH_THREADS) as pool:
            for i, digest in zip(large, pool.map(lambda i: _hash(buffers[i]), large), strict=True):
                digests[i] = digest
    return digests


def _hash(buffer: memoryview) -> str:
    return xxhash.xxh3_128_hexdigest(buffer)


def _compare(tensors: Sequence[TensorSpec], digests: Sequence[str], expected: Mapping[str, str]) -> None:
    for tensor, digest in zip(tensors, digests, strict=True):
        if expected.get(tensor.name, digest) != digest:
            raise DamagedCheckpoint(f"Tensor '{tensor.name}' does not match its digest.")
