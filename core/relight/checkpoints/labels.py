"""Labels: an empty file for each word on a checkpoint. They cost no tensor bytes and are never a copy or a link."""

from __future__ import annotations

from relight.checkpoints.file_names import CheckpointName, StoreLayout, label_file_name, parse_label_name
from relight.checkpoints.file_operations import FileOperations

VERIFIED = "verified"
"""Every byte of the checkpoint was read back from the disk and was right."""


def read(layout: StoreLayout, operations: FileOperations) -> dict[CheckpointName, frozenset[str]]:
    """All labels by checkpoint."""
    found: dict[CheckpointName, frozenset[str]] = {}
    for file_name in operations.list_folder(layout.labels):
        parsed = parse_label_name(file_name)
        if parsed is not None:
            name, label = parsed
            found[name] = found.get(name, frozenset()) | {label}
    return found


def add(name: CheckpointName, label: str, *, layout: StoreLayout, operations: FileOperations, durable: bool) -> None:
    """Put a label on a checkpoint, if it is not there yet."""
    try:
        operations.close(operations.create(layout.labels / label_file_name(name.stem, label)))
    except FileExistsError:
        pass
    if durable:  # one that is there may be from somebody who died before he had synced it
        operations.sync_folder(layout.labels)


def remove(name: CheckpointName, label: str, *, layout: StoreLayout, operations: FileOperations) -> None:
    """Take a label away, if it is there."""
    try:
        operations.remove(layout.labels / label_file_name(name.stem, label))
    except FileNotFoundError:
        return
    operations.sync_folder(layout.labels)
