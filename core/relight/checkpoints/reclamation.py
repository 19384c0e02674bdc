"""Gives space back: removes what a retention plan says, moves damaged checkpoints away, sweeps up after crashes.

A manifest goes first and durably, and only then what it named: a crash in between leaves files that nothing names,
never a checkpoint with a hole. Names that are not the store's own are never touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from relight.checkpoints.file_names import (
    CheckpointName,
    parse_label_name,
    parse_manifest_name,
    parse_pack_name,
    parse_stem,
)
from relight.checkpoints.file_operations import FileOperations
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.manifest import decode_head
from relight.checkpoints.retention import RetentionPlan, plan_retention
from relight.errors import DamagedCheckpoint

if TYPE_CHECKING:
    from relight.checkpoints.store import CheckpointStore


def apply(plan: RetentionPlan, store: CheckpointStore, operations: FileOperations) -> list[CheckpointInfo]:
    """Remove what `plan` removes and what its policy, asked again now, removes too. Oldest first."""
    again = {info.name for info in plan_retention(store.list().checkpoints, plan.policy).removed}
    removed = [info for info in plan.removed if info.name in again]
    if not removed:
        return []
    for info in removed:
        _remove_if_there(store.layout.manifests / info.path.name, operations)
    operations.sync_folder(store.layout.manifests)
    _remove_unnamed_packs(store, operations)
    _remove_stale_labels(store, operations)
    return removed


def sweep(store: CheckpointStore, operations: FileOperations) -> None:
    """Remove unfinished files, packs that no manifest names, and labels without a checkpoint."""
    for file_name in operations.list_folder(store.layout.temporary):
        if parse_manifest_name(file_name) or parse_pack_name(file_name) or file_name == store.layout.format.name:
            _remove_if_there(store.layout.temporary / file_name, operations)
    _remove_unnamed_packs(store, operations)
    _remove_stale_labels(store, operations)


def quarantine(name: CheckpointName, store: CheckpointStore, operations: FileOperations) -> None:
    """Move the manifest, then its own pack if no other manifest names it; take its mark of being verified away."""
    layout = store.layout
    moved = _free_name(name.manifest, operations.list_folder(layout.quarantine))
    operations.rename_new(layout.manifests / name.manifest, layout.quarantine / moved)
    operations.sync_folder(layout.quarantine)
    operations.sync_folder(layout.manifests)
    named, complete = _named_packs(store, operations)
    if name.pack in operations.list_folder(layout.packs) and name.pack not in named and complete:
        moved = _free_name(name.pack, operations.list_folder(layout.quarantine))
        operations.rename_new(layout.packs / name.pack, layout.quarantine / moved)
        operations.sync_folder(layout.quarantine)
        operations.sync_folder(layout.packs)
    _remove_if_there(layout.labels / f"{name.stem}.verified", operations)


def _named_packs(
    store: CheckpointStore, operations: FileOperations, *, quarantined: bool = False
) -> tuple[set[str], bool]:
    """Packs that any manifest names, and whether every manifest could be asked."""
    layout = store.layout
    named: set[str] = set()
    complete = True
    for folder in (layout.manifests, layout.quarantine) if quarantined else (layout.manifests,):
        for file_name in operations.list_folder(folder):
            if parse_manifest_name(file_name) is None:
                continue
            try:
                head = decode_head(operations.read_file(folder / file_name), file_name=file_name)
            except FileNotFoundError:
                continue
            except (DamagedCheckpoint, OSError):
                complete = complete and folder != layout.manifests
                continue
            named.update(pack.file for pack in head.packs)
    return named, complete


def _remove_unnamed_packs(store: CheckpointStore, operations: FileOperations) -> None:
    named, complete = _named_packs(store, operations, quarantined=True)
    if not complete:
        # A manifest that cannot be read may name any of them.
        return
    for file_name in operations.list_folder(store.layout.packs):
        if parse_pack_name(file_name) is not None and file_name not in named:
            _remove_if_there(store.layout.packs / file_name, operations)


def _remove_stale_labels(store: CheckpointStore, operations: FileOperations) -> None:
    there = set(store.manifest_names())
    there.update(
        name
        for file_name in operations.list_folder(store.layout.quarantine)
        if (name := parse_stem(file_name.partition(".")[0])) is not None
    )
    for file_name in operations.list_folder(store.layout.labels):
        parsed = parse_label_name(file_name)
        if parsed is not None and parsed[0] not in there:
            _remove_if_there(store.layout.labels / file_name, operations)


def _remove_if_there(path: Path, operations: FileOperations) -> None:
    try:
        operations.remove(path)
    except FileNotFoundError:
        pass


def _free_name(file_name: str, taken: list[str]) -> str:
    names = [file_name, *(f"{file_name}.{count}" for count in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)
