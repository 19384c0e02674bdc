"""The write protocol: the order of steps that makes a snapshot durable, and the only place that knows it.

reserve -> stream -> sync -> rename -> sync folder            the pack
        -> write -> sync -> rename without replacing -> sync folder     the manifest: this is the commit

A crash before the last rename leaves the checkpoints from before and some rubbish; after the last sync the new one
survives anything. Nothing that exists is ever written to.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import xxhash

from relight.checkpoints.encoded_snapshot import EncodedSnapshot
from relight.checkpoints.errors import SaveError
from relight.checkpoints.file_names import CheckpointName, StoreLayout
from relight.checkpoints.file_operations import FileOperations
from relight.checkpoints.file_stream import FileStream, merge_adjacent
from relight.checkpoints.manifest import Manifest, PackEntry, TensorEntry, encode_manifest
from relight.checkpoints.pack import order_for_pack, plan_pack
from relight.checkpoints.snapshot import TensorSpec
from relight.errors import DamagedCheckpoint

_HASH_THREADS = 2
_HASHED_APART_BYTES = 1 << 20
_SHARED_FRACTION = 0.5


@dataclass(frozen=True)
class _Shared:
    """Where a tensor already lies on the disk."""

    pack: PackEntry
    offset: int


def commit_snapshot(
    snapshot: EncodedSnapshot,
    buffers: Sequence[memoryview],
    *,
    name: CheckpointName,
    layout: StoreLayout,
    operations: FileOperations,
    parent: Manifest | None,
    expected_digests: Mapping[str, str] | None = None,
) -> tuple[Manifest, int]:
    """Write a checkpoint and return its manifest with the length of that file; it is durable then.

    `buffers` are flat views of bytes, one for each tensor of `snapshot`. A tensor that `parent` has with the same type,
    shape and digest is shared, not written. Raises `SaveError` when the file system refuses, with everything from
    before untouched; `DamagedCheckpoint` when a tensor does not match `expected_digests`.
    """
    assert len(buffers) == len(snapshot.tensors)
    for tensor, buffer in zip(snapshot.tensors, buffers, strict=True):
        assert len(buffer) == tensor.nbytes, tensor
    digests = _hash_all(buffers)
    if expected_digests is not None:
        _compare(snapshot.tensors, digests, expected_digests)
    shared = _find_shared(snapshot.tensors, digests, parent) if parent is not None else {}
    # Equal tensors of one snapshot (tied weights, fresh moments) are written once.
    order = [i for i in order_for_pack(snapshot.tensors) if i not in shared and snapshot.tensors[i].nbytes]
    first: dict[tuple[str, int], int] = {}
    for i in order:
        first.setdefault((digests[i], snapshot.tensors[i].nbytes), i)
    written = [i for i in order if first[digests[i], snapshot.tensors[i].nbytes] == i]
    try:
        packs: list[PackEntry] = []
        offsets: dict[int, int] = {}
        if written:
            entry, pack_offsets = _write_pack(
                snapshot=snapshot,
                buffers=buffers,
                written=written,
                name=name,
                layout=layout,
                operations=operations,
            )
            packs.append(entry)
            offsets = dict(zip(written, pack_offsets, strict=True))
        entries: list[TensorEntry] = []
        for i, tensor in enumerate(snapshot.tensors):
            if i in shared:
                found = shared[i]
                if found.pack not in packs:
                    packs.append(found.pack)
                pack, offset = packs.index(found.pack), found.offset
            elif tensor.nbytes:
                pack, offset = 0, offsets[first[digests[i], tensor.nbytes]]
            else:
                pack, offset = -1, 0
            entries.append(
                TensorEntry(tensor.name, tensor.dtype, tensor.shape, pack, offset, tensor.nbytes, digests[i])
            )
        manifest = Manifest(
            name=name.stem,
            sequence=name.sequence,
            step=snapshot.step,
            epoch=snapshot.epoch,
            attempt=snapshot.attempt,
            reason=snapshot.reason,
            time_s=snapshot.time_s,
            parent=None if parent is None else parent.name,
            metrics=snapshot.metrics,
            score=snapshot.score,
            tensor_bytes=sum(tensor.nbytes for tensor in snapshot.tensors),
            packs=tuple(packs),
            environment=snapshot.environment,
            tensors=tuple(entries),
            state=snapshot.state,
        )
        text = encode_manifest(manifest)
        write_new_file(layout.manifests / name.manifest, text, layout=layout, operations=operations)
    except OSError as error:
        raise explain_failure(error, snapshot, layout) from error
    return manifest, len(text)


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


def _find_shared(tensors: Sequence[TensorSpec], digests: Sequence[str], parent: Manifest) -> dict[int, _Shared]:
    known = {(entry.dtype, entry.shape, entry.digest): entry for entry in parent.tensors if entry.bytes}
    found = {
        i: entry
        for i, tensor in enumerate(tensors)
        if (entry := known.get((tensor.dtype, tensor.shape, digests[i]))) is not None
    }
    # A pack stays as long as anything in it is shared. One of which only a little is still needed is not kept alive
    # for that: so a checkpoint never holds more than 1 / _SHARED_FRACTION of its own size on the disk.
    needed = [0] * len(parent.packs)
    for index, _, nbytes in {(entry.pack, entry.offset, entry.bytes) for entry in found.values()}:
        needed[index] += nbytes
    worthwhile = {
        index
        for index, pack in enumerate(parent.packs)
        if needed[index] >= _SHARED_FRACTION * (pack.bytes - pack.header_bytes)
    }
    return {
        i: _Shared(parent.packs[entry.pack], entry.offset) for i, entry in found.items() if entry.pack in worthwhile
    }


def _write_pack(
    *,
    snapshot: EncodedSnapshot,
    buffers: Sequence[memoryview],
    written: Sequence[int],
    name: CheckpointName,
    layout: StoreLayout,
    operations: FileOperations,
) -> tuple[PackEntry, tuple[int, ...]]:
    plan = plan_pack(
        [snapshot.tensors[i] for i in written],
        metadata={"format": "pt", "relight_checkpoint": name.stem},
    )
    temporary = layout.temporary / name.pack
    file = _create(temporary, operations)
    try:
        try:
            operations.reserve(file, plan.bytes)
            stream = FileStream(operations, file)
            stream.write(memoryview(plan.header))
            for run in merge_adjacent(buffers[i] for i in written):
                stream.write(run)
            length = stream.finish()
            assert length == plan.bytes, (length, plan.bytes)
            operations.sync(file)
            operations.forget_cached(file)
        finally:
            operations.close(file)
        operations.rename_new(temporary, layout.packs / name.pack)
    except OSError:
        _discard(temporary, operations)
        raise
    try:
        operations.sync_folder(layout.packs)
    except OSError:
        _discard(layout.packs / name.pack, operations)
        raise
    header_digest = xxhash.xxh3_128_hexdigest(plan.header)
    return PackEntry(name.pack, plan.bytes, len(plan.header), header_digest), plan.offsets


def write_new_file(path: Path, data: bytes, *, layout: StoreLayout, operations: FileOperations) -> None:
    """Write a small file durably under a name that must be free. On an error nothing is left behind."""
    temporary = layout.temporary / path.name
    file = _create(temporary, operations)
    try:
        try:
            operations.reserve(file, len(data))
            stream = FileStream(operations, file, direct=False)
            stream.write(memoryview(data))
            stream.finish()
            operations.sync(file)
        finally:
            operations.close(file)
        operations.rename_new(temporary, path)
    except OSError:
        _discard(temporary, operations)
        raise
    try:
        operations.sync_folder(path.parent)
    except OSError:
        # The name may or may not survive, and no later sync would tell: nobody may rely on it.
        _discard(path, operations)
        raise


def _create(temporary: Path, operations: FileOperations) -> int:
    try:
        return operations.create(temporary)
    except FileExistsError:
        # What an earlier try left: never written to again, least of all after a failed sync.
        operations.remove(temporary)
        return operations.create(temporary)


def _discard(path: Path, operations: FileOperations) -> None:
    try:
        operations.remove(path)
    except OSError:
        pass


def explain_failure(error: OSError, snapshot: EncodedSnapshot, layout: StoreLayout) -> SaveError:
    """What the file system refused, as one sentence for a person."""
    what = f"The checkpoint at step {snapshot.step} was not saved"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = human_bytes(sum(tensor.nbytes for tensor in snapshot.tensors))
        full = "the disk is full" if error.errno == errno.ENOSPC else "the disk quota is used up"
        return SaveError(f"{what}: {full} ({needed} needed, {_free(layout)} free at {layout.folder}). Free some space.")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return SaveError(f"{what}: {layout.folder} cannot be written to ({error.strerror}).")
    return SaveError(f"{what}: {error.strerror or error} ({layout.folder}).")


def _free(layout: StoreLayout) -> str:
    try:
        found = os.statvfs(layout.folder)
    except OSError:
        return "an unknown amount"
    return human_bytes(found.f_bavail * found.f_frsize)


def human_bytes(count: float) -> str:
    """A size for a sentence: "1.5 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
