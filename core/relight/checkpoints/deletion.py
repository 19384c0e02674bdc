"""Deletes files of a store: what a retention plan removes, and what crashes left behind.

A manifest goes first, durably, and only then the packs that it named. A crash in between leaves files that no manifest
names, never a checkpoint with a missing pack. Files with names that the store does not make are never touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from relight.checkpoints.file_names import (
    is_receipt_name,
    parse_label_name,
    parse_manifest_name,
    parse_pack_name,
    parse_part_name,
    parse_stem,
)
from relight.checkpoints.file_operations import FileOperations
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.manifest import decode_head
from relight.checkpoints.retention import RetentionPlan, plan_retention
from relight.checkpoints.store import CheckpointStore
from relight.errors import DamagedCheckpoint


def apply_retention(store: CheckpointStore, plan: RetentionPlan) -> Sequence[CheckpointInfo]:
    """Delete the checkpoints that `plan` removes and return them, oldest first.

    The store may have changed since the plan was made: a checkpoint is deleted only if the plan's policy, applied to
    the store as it is now, removes it too. Only the process that holds the run's lock may call this. Raises `OSError`.
    """
    operations = store.operations
    still_removed = {info.name for info in plan_retention(store.list().checkpoints, plan.policy).removed}
    removed = [info for info in plan.removed if info.name in still_removed]
    if not removed:
        return []
    for info in removed:
        remove_if_there(store.layout.manifests / info.path.name, operations)
    operations.sync_folder(store.layout.manifests)
    _remove_unnamed_packs(store, spare_newer=True)
    _remove_stale_labels(store)
    return removed


def sweep(store: CheckpointStore, *, spare_newer: bool = False) -> None:
    """Delete what crashes left behind: unfinished files, packs without a manifest, labels without a checkpoint.

    With `spare_newer` the files of ranks stay that are newer than all checkpoints: a rank may be writing them now. Only
    the process that holds the run's lock may call this. Raises `OSError`.
    """
    operations = store.operations
    for file_name in operations.list_folder(store.layout.temporary):
        if spare_newer and _is_newer(file_name, store):
            continue
        if (
            parse_manifest_name(file_name)
            or parse_pack_name(file_name)
            or is_receipt_name(file_name)
            or file_name == store.layout.format.name
        ):
            remove_if_there(store.layout.temporary / file_name, operations)
    _remove_unnamed_packs(store, spare_newer=spare_newer)
    _remove_stale_labels(store)


def find_named_packs(store: CheckpointStore, *, quarantined: bool = False) -> tuple[set[str], bool]:
    """Return the packs that any manifest names, and whether every manifest could be read.

    With `quarantined` the manifests in quarantine count too; those need not be readable.
    """
    layout, operations = store.layout, store.operations
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


def remove_if_there(path: Path, operations: FileOperations) -> None:
    """Delete a file unless it is gone already."""
    try:
        operations.remove(path)
    except FileNotFoundError:
        pass


def _is_newer(file_name: str, store: CheckpointStore) -> bool:
    """Tell whether this is a file of a rank's part of a checkpoint that may still be committed."""
    part = parse_part_name(file_name)
    names = store.manifest_names()
    return part is not None and (not names or part[0].sequence > names[-1].sequence)


def _remove_unnamed_packs(store: CheckpointStore, *, spare_newer: bool) -> None:
    named, complete = find_named_packs(store, quarantined=True)
    if not complete:
        # A manifest that cannot be read may name any of them.
        return
    for file_name in store.operations.list_folder(store.layout.packs):
        if spare_newer and _is_newer(file_name, store):
            continue
        if (parse_pack_name(file_name) is not None and file_name not in named) or is_receipt_name(file_name):
            remove_if_there(store.layout.packs / file_name, store.operations)


def _remove_stale_labels(store: CheckpointStore) -> None:
    operations = store.operations
    there = set(store.manifest_names())
    there.update(
        name
        for file_name in operations.list_folder(store.layout.quarantine)
        if (name := parse_stem(file_name.partition(".")[0])) is not None
    )
    for file_name in operations.list_folder(store.layout.labels):
        parsed = parse_label_name(file_name)
        if parsed is not None and parsed[0] not in there:
            remove_if_there(store.layout.labels / file_name, operations)
