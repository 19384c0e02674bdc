"""Copying a checkpoint, or only its weights, to another run's store without holding it in memory."""

from __future__ import annotations

import mmap
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from relight.checkpoints.snapshot_header import BEFORE_ANY_ATTEMPT
from relight.errors import DamagedCheckpoint, RelightError

if TYPE_CHECKING:
    from relight.checkpoints.listing import CheckpointInfo
    from relight.checkpoints.manifest import Manifest
    from relight.checkpoints.store import CheckpointStore


def copy_checkpoint(source: CheckpointStore, info: CheckpointInfo, target: CheckpointStore) -> CheckpointInfo:
    """Commit checkpoint `info` of `source` to `target` and check every tensor against its digest on the way.

    The copy's training state and state digest equal the original's bit for bit. Raises DamagedCheckpoint, and SaveError
    when the disk is full.
    """
    from relight.checkpoints.encoded_snapshot import EncodedSnapshot
    from relight.checkpoints.snapshot_header import facts_of

    with ExitStack() as opened, source.open(info) as reader:
        manifest = reader.manifest
        buffers = list(_map_tensors(source, manifest, opened).values())
        snapshot = EncodedSnapshot(
            **facts_of(manifest) | {"attempt": BEFORE_ANY_ATTEMPT},
            token=manifest.checkpoint_name.token,
            metrics=manifest.metrics,
            environment=manifest.environment,
            state=manifest.state,
            tensors=tuple(entry.spec for entry in manifest.tensors),
        )
        digests = {entry.name: entry.digest for entry in manifest.tensors}
        return target.commit(snapshot, buffers, expected_digests=digests)


def copy_weights(source: CheckpointStore, info: CheckpointInfo, target: CheckpointStore) -> CheckpointInfo:
    """Commit the modules of checkpoint `info` to `target`, as a weights-only checkpoint of step 0.

    A training that starts or resumes from it starts at step 0 with these weights and a fresh optimizer. Raises
    RelightError when the checkpoint has no modules, and the errors of `copy_checkpoint`.
    """
    from relight.checkpoints.snapshot_header import SnapshotHeader

    with ExitStack() as opened, source.open(info) as reader:
        manifest = reader.manifest
        parts = reader.state.get("parts", {}) if isinstance(reader.state, dict) else {}
        modules = {name: part for name, part in parts.items() if part.get("kind") == "module"}
        if not modules:
            raise RelightError(f"The checkpoint at step {info.step} contains no model, so it has no weights to take.")
        names = _list_tensors(modules)
        views = _map_tensors(source, manifest, opened)
        kept = [entry for entry in manifest.tensors if entry.owner in names]
        header = SnapshotHeader(
            step=0,
            epoch=0,
            attempt=BEFORE_ANY_ATTEMPT,
            reason="import",
            time_s=time.time(),
            state={
                "format": reader.state.get("format", 1),
                "weights_only": True,
                "parts": modules,
                "counters": {
                    "step": 0,
                    "evaluated_step": None,
                    "best": {"metric": None, "value": None, "step": None},
                },
            },
            environment={"work_s": 0.0},
            tensors=[entry.spec for entry in kept],
        )
        digests = {entry.name: entry.digest for entry in kept}
        return target.commit(header, [views[entry.name] for entry in kept], expected_digests=digests)


def _list_tensors(tree: Any) -> set[str]:
    """Return the names of all tensors that a state tree refers to."""
    from relight.checkpoints.snapshot_header import TensorRef

    if isinstance(tree, TensorRef):
        return {tree.name}
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return {name for value in inner for name in _list_tensors(value)}


def _map_tensors(source: CheckpointStore, manifest: Manifest, opened: ExitStack) -> dict[str, memoryview]:
    """Map each tensor in its pack file, read-only. The kernel reads the pages while they are copied."""
    packs: list[memoryview] = []
    for pack in manifest.packs:
        with (source.layout.packs / pack.file).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        opened.callback(mapped.close)
        if len(mapped) != pack.bytes:
            raise DamagedCheckpoint(f"Pack {pack.file} has {len(mapped):,} bytes instead of {pack.bytes:,}.")
        packs.append(opened.enter_context(memoryview(mapped)))
    views: dict[str, memoryview] = {}
    for entry in manifest.tensors:
        whole = packs[entry.pack] if entry.bytes else memoryview(b"")
        piece = whole[entry.offset : entry.offset + entry.bytes] if entry.bytes else whole
        views[entry.name] = opened.enter_context(piece)
    return views
