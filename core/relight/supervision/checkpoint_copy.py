"""Copying one checkpoint into another run's store, as durably as it was made and without holding it in memory."""

from __future__ import annotations

import mmap
from contextlib import ExitStack
from typing import TYPE_CHECKING

from relight.errors import DamagedCheckpoint

if TYPE_CHECKING:
    from relight.checkpoints.listing import CheckpointInfo
    from relight.checkpoints.manifest import Manifest
    from relight.checkpoints.store import CheckpointStore

BEFORE_ANY_ATTEMPT = 0


def copy_checkpoint(source: CheckpointStore, info: CheckpointInfo, target: CheckpointStore) -> CheckpointInfo:
    """Commit `info` of `source` to `target`; every tensor is checked against its digest on the way.

    The training state is the same to the last bit, and so is its digest. Raises DamagedCheckpoint, SaveError when the
    disk is full.
    """
    from relight.checkpoints.encoded_snapshot import EncodedSnapshot

    with ExitStack() as opened, source.open(info) as reader:
        manifest = reader.manifest
        buffers = _map_tensors(source, manifest, opened)
        snapshot = EncodedSnapshot(
            step=manifest.step,
            epoch=manifest.epoch,
            attempt=BEFORE_ANY_ATTEMPT,
            reason=manifest.reason,
            time_s=manifest.time_s,
            token=manifest.checkpoint_name.token,
            score=manifest.score,
            metrics=manifest.metrics,
            environment=manifest.environment,
            state=manifest.state,
            tensors=tuple(reader.spec(entry.name) for entry in manifest.tensors),
        )
        digests = {entry.name: entry.digest for entry in manifest.tensors}
        return target.commit(snapshot, buffers, expected_digests=digests)


def _map_tensors(source: CheckpointStore, manifest: Manifest, opened: ExitStack) -> list[memoryview]:
    """A read-only view of each tensor in the file that holds it; the kernel reads the pages as they are copied."""
    packs: list[memoryview] = []
    for pack in manifest.packs:
        with (source.layout.packs / pack.file).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        opened.callback(mapped.close)
        if len(mapped) != pack.bytes:
            raise DamagedCheckpoint(f"Pack {pack.file} has {len(mapped):,} bytes instead of {pack.bytes:,}.")
        packs.append(opened.enter_context(memoryview(mapped)))
    views: list[memoryview] = []
    for entry in manifest.tensors:
        whole = packs[entry.pack] if entry.bytes else memoryview(b"")
        views.append(opened.enter_context(whole[entry.offset : entry.offset + entry.bytes] if entry.bytes else whole))
    return views
