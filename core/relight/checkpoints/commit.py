"""The write protocol: the order of steps that makes a snapshot durable, and the only place that knows it.

reserve -> stream -> sync -> rename -> sync folder            the pack
        -> write -> sync -> rename without replacing -> sync folder     the manifest: this is the commit

A crash before the last rename leaves the checkpoints from before and some rubbish; after the last sync the new one
survives anything. Nothing that exists is ever written to.

The stream may begin while the snapshot is still being copied, with the tensors that the parent had to write; when
the digests then say otherwise, that file is thrown away and the pack is written as if nothing had been guessed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from relight.checkpoints.arrival import Arrival, ArrivingPack, WrongGuess
from relight.checkpoints.encoded_snapshot import EncodedSnapshot
from relight.checkpoints.file_names import CheckpointName, StoreLayout
from relight.checkpoints.file_operations import FileOperations
from relight.checkpoints.file_stream import FileStream, merge_adjacent
from relight.checkpoints.manifest import Manifest, PackEntry, encode_manifest
from relight.checkpoints.pack import plan_pack
from relight.checkpoints.sharing import guess_written, list_entries, place_tensors
from relight.checkpoints.snapshot_header import TensorSpec
from relight.errors import DamagedCheckpoint, SaveError
from relight.wording import describe_bytes

_HASH_THREADS = 2
_HASHED_APART_BYTES = 1 << 20


def commit_snapshot(
    snapshot: EncodedSnapshot,
    buffers: Sequence[memoryview],
    *,
    name: CheckpointName,
    layout: StoreLayout,
    operations: FileOperations,
    parent: Manifest | None,
    expected_digests: Mapping[str, str] | None = None,
    arrival: Arrival | None = None,
) -> tuple[Manifest, int]:
    """Write a checkpoint and return its manifest with the length of that file; it is durable then.

    `buffers` are flat views of bytes, one for each tensor of `snapshot`. A tensor that `parent` has with the same type,
    shape and digest is shared, not written. With `arrival` the buffers need not be filled yet. Raises `SaveError` when
    the file system refuses, with everything from before untouched; `DamagedCheckpoint` when a tensor does not match
    `expected_digests`; `Abandoned` when the rest of the snapshot never comes.
    """
    assert len(buffers) == len(snapshot.tensors)
    for tensor, buffer in zip(snapshot.tensors, buffers, strict=True):
        assert len(buffer) == tensor.nbytes, tensor
    pack: PackEntry | None = None
    offsets: tuple[int, ...] = ()
    digests: list[str] = []
    try:
        if arrival is not None:
            early = _write_arriving(snapshot, buffers, arrival, parent, name=name, layout=layout, operations=operations)
            if early is not None:
                pack, offsets, digests = early
        if pack is None:
            digests = _hash_all(buffers)
        if expected_digests is not None:
            _compare(snapshot.tensors, digests, expected_digests)
        placement = place_tensors(snapshot.tensors, digests, parent=parent)
        if pack is None and placement.written:
            pack, offsets = _write_pack(
                [snapshot.tensors[i] for i in placement.written],
                merge_adjacent(buffers[i] for i in placement.written),
                name=name,
                layout=layout,
                operations=operations,
            )
        packs, entries = list_entries(snapshot.tensors, digests, placement, new_pack=pack, offsets=offsets)
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
            packs=packs,
            environment=snapshot.environment,
            tensors=entries,
            state=snapshot.state,
        )
        text = encode_manifest(manifest)
        write_new_file(layout.manifests / name.manifest, text, layout=layout, operations=operations)
    except OSError as error:
        if pack is not None:
            # Or a disk that is full would be filled up with packs that nobody names, one with each try.
            _discard(layout.packs / pack.file, operations)
        raise explain_failure(error, snapshot, layout) from error
    return manifest, len(text)


def _write_arriving(
    snapshot: EncodedSnapshot,
    buffers: Sequence[memoryview],
    arrival: Arrival,
    parent: Manifest | None,
    *,
    name: CheckpointName,
    layout: StoreLayout,
    operations: FileOperations,
) -> tuple[PackEntry, tuple[int, ...], list[str]] | None:
    """Write the pack while its snapshot arrives, and return it with all digests; None when it has to be written anew.

    The snapshot is complete then.
    """
    guess = () if parent is None else guess_written(snapshot.tensors, parent)
    if parent is not None and guess:
        data = ArrivingPack(snapshot.tensors, buffers, written=guess, parent=parent, arrival=arrival)
        try:
            pack, offsets = _write_pack(
                [snapshot.tensors[i] for i in guess], data, name=name, layout=layout, operations=operations
            )
        except WrongGuess:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            # There may be room for what really has to be written.
        else:
            return pack, offsets, data.digests
    arrival.wait_until_complete()
    return None


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


def _write_pack(
    tensors: Sequence[TensorSpec],
    data: Iterable[memoryview],
    *,
    name: CheckpointName,
    layout: StoreLayout,
    operations: FileOperations,
) -> tuple[PackEntry, tuple[int, ...]]:
    """Write a pack durably, and return its entry with the offsets of its tensors. On an error nothing is left.

    `data` are the tensors' bytes, in their order.
    """
    plan = plan_pack(tensors, metadata={"format": "pt", "relight_checkpoint": name.stem})
    path = layout.packs / name.pack
    temporary = layout.temporary / name.pack
    file = _create(temporary, operations)
    try:
        try:
            operations.reserve(file, plan.bytes)
            stream = FileStream(operations, file)
            stream.write(memoryview(plan.header))
            for run in data:
                stream.write(run)
            length = stream.finish()
            assert length == plan.bytes, (length, plan.bytes)
            operations.sync(file)
            operations.forget_cached(file)
        finally:
            operations.close(file)
    except Exception:
        _discard(temporary, operations)
        raise
    _give_name(temporary, path, operations)
    header_digest = xxhash.xxh3_128_hexdigest(plan.header)
    return PackEntry(name.pack, plan.bytes, len(plan.header), header_digest), plan.offsets


def write_new_file(path: Path, data: bytes, *, layout: StoreLayout, operations: FileOperations) -> None:
    """Write a small file durably under a name that must be free. On an error nothing is left behind."""
    temporary = layout.temporary / path.name
    file = _create(temporary, operations)
    try:
        try:
            stream = FileStream(operations, file, direct=False)
            stream.write(memoryview(data))
            stream.finish()
            operations.sync(file)
        finally:
            operations.close(file)
    except OSError:
        _discard(temporary, operations)
        raise
    _give_name(temporary, path, operations)


def _give_name(temporary: Path, path: Path, operations: FileOperations) -> None:
    try:
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
        needed = describe_bytes(sum(tensor.nbytes for tensor in snapshot.tensors))
        full = "the disk is full" if error.errno == errno.ENOSPC else "the disk quota is used up"
        return SaveError(f"{what}: {full} ({needed} needed, {_free(layout)} free at {layout.folder}). Free some space.")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return SaveError(f"{what}: {layout.folder} cannot be written to ({error.strerror}).")
    if error.errno == errno.EXDEV:
        return SaveError(
            f"{what}: the folders in {layout.folder} are on different disks, so that no file can be moved from one to "
            "the other in one step. Put that folder as a whole on one disk; it may be a link to another one."
        )
    return SaveError(f"{what}: {error.strerror or error} ({layout.folder}).")


def _free(layout: StoreLayout) -> str:
    try:
        found = os.statvfs(layout.folder)
    except OSError:
        return "an unknown amount"
    return describe_bytes(found.f_bavail * found.f_frsize)
