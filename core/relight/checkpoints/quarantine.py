"""Moves a damaged checkpoint out of the way, and deletes nothing."""

from __future__ import annotations

from pathlib import Path

from relight.checkpoints import labels
from relight.checkpoints.deletion import find_named_packs, remove_if_there
from relight.checkpoints.file_names import CheckpointName, label_file_name, parse_pack_name
from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.store_format import make_folders


def quarantine_checkpoint(store: CheckpointStore, name: CheckpointName) -> None:
    """Move a checkpoint's manifest to `quarantine/`, and its own packs unless another manifest names them.

    The checkpoint also loses its `verified` mark. Only the process that holds the run's lock may call this. Raises
    `OSError`.
    """
    make_folders(store.layout, store.operations)
    layout, operations = store.layout, store.operations
    _move(store, layout.manifests / name.manifest)
    named, complete = find_named_packs(store)
    for file_name in operations.list_folder(layout.packs) if complete else ():
        if parse_pack_name(file_name) == name and file_name not in named:
            _move(store, layout.packs / file_name)
    remove_if_there(layout.labels / label_file_name(name.stem, labels.VERIFIED), operations)


def _move(store: CheckpointStore, path: Path) -> None:
    layout, operations = store.layout, store.operations
    taken = operations.list_folder(layout.quarantine)
    names = [path.name, *(f"{path.name}.{count}" for count in range(2, len(taken) + 3))]
    free = next(name for name in names if name not in taken)
    operations.rename_new(path, layout.quarantine / free)
    operations.sync_folder(layout.quarantine)
    operations.sync_folder(path.parent)
