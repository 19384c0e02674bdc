"""The folders of a store, and the small file that names the version of its format."""

from __future__ import annotations

import contextlib

import msgspec

from relight.checkpoints.atomic_file import write_atomically
from relight.checkpoints.file_names import StoreLayout
from relight.checkpoints.file_operations import FileOperations
from relight.checkpoints.listing import DamagedEntry
from relight.errors import SaveError

FORMAT_VERSION = 1
FORMAT = {"format": "relight-checkpoints", "version": FORMAT_VERSION}


def make_folders(layout: StoreLayout, operations: FileOperations) -> None:
    """Create what is missing: everything of a new store, or the empty folders that a copy of a store has lost.

    The run's own folder is never created: a run that was deleted must not come back as an empty, damaged one. Raises
    `OSError`.
    """
    there = set(operations.list_folder(layout.folder))
    if there.issuperset(path.name for path in (layout.format, *layout.folders)):
        return
    try:
        operations.make_folder(layout.folder)
        for folder in layout.folders:
            operations.make_folder(folder)
        operations.sync_folder(layout.folder)
        operations.sync_folder(layout.folder.parent)
    except OSError:
        # The names may or may not survive a crash, and a later sync would not tell: start over next time.
        for folder in (*layout.folders, layout.folder):
            with contextlib.suppress(OSError):
                operations.remove_folder(folder)
        raise
    if layout.format.name in there:
        return
    text = msgspec.json.encode(FORMAT) + b"\n"
    with contextlib.suppress(FileExistsError):
        write_atomically(layout.format, text, layout=layout, operations=operations)


def refuse_later_format(layout: StoreLayout, operations: FileOperations, *, step: int) -> None:
    """Raise `SaveError` if a later version of Relight made the store; `step` is what would have been saved."""
    try:
        version = int(msgspec.json.decode(operations.read_file(layout.format))["version"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, msgspec.MsgspecError):
        return  # Damaged or unreadable: each manifest names its own version.
    if version > FORMAT_VERSION:
        raise SaveError(
            f"The checkpoint at step {step} was not saved: {layout.folder} has format {version}, which a later version "
            "of Relight made. Update Relight to continue this run."
        )


def find_format_problem(layout: StoreLayout, operations: FileOperations, *, is_empty: bool) -> DamagedEntry | None:
    """Return what is wrong with the format file. A store that `is_empty` may lack it."""
    try:
        data = operations.read_file(layout.format)
    except FileNotFoundError:
        # A crash between making the folders and the first commit leaves a store without it, and costs nothing.
        return None if is_empty else DamagedEntry(layout.format, "It is missing.")
    except OSError as error:
        return DamagedEntry(layout.format, f"It cannot be read: {error.strerror}.")
    try:
        found = msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = {}
    return None if found == FORMAT else DamagedEntry(layout.format, "It does not name the format of the store.")
