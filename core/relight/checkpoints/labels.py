"""Labels: words on checkpoints, each an empty file. A label is never a copy of a checkpoint or a link to one."""

from __future__ import annotations

from relight.checkpoints.file_names import CheckpointName, StoreLayout, label_file_name, parse_label_name
from relight.checkpoints.file_operations import FileOperations

VERIFIED = "verified"
"""Every byte of the checkpoint was read back from the disk and matches its digest."""


def read(layout: StoreLayout, operations: FileOperations) -> dict[CheckpointName, frozenset[str]]:
    """Return all labels, by checkpoint."""
    found: dict[CheckpointName, frozenset[str]] = {}
    for file_name in operations.list_folder(layout.labels):
        parsed = parse_label_name(file_name)
        if parsed is not None:
            name, label = parsed
            found[name] = found.get(name, frozenset()) | {label}
    return found


def add(name: CheckpointName, label: str, *, layout: StoreLayout, operations: FileOperations, durable: bool) -> None:
    """Put a label on a checkpoint unless it has it already."""
    try:
        operations.close(operations.create(layout.labels / label_file_name(name.stem, label)))
    except FileExistsError:
        pass
    if durable:  # an existing one may be from a process that died before it had synced the folder
        operations.sync_folder(layout.labels)


def remove(name: CheckpointName, label: str, *, layout: StoreLayout, operations: FileOperations) -> None:
    """Take a label off a checkpoint, durably, if it has it."""
    try:
        operations.remove(layout.labels / label_file_name(name.stem, label))
    except FileNotFoundError:
        return
    operations.sync_folder(layout.labels)
