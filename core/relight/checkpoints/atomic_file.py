"""Creates files that are complete and durable under their name, or not there at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relight.checkpoints.file_names import StoreLayout
from relight.checkpoints.file_operations import FileOperations
from relight.checkpoints.file_stream import FileStream


@contextmanager
def atomic_file(
    path: Path, *, layout: StoreLayout, operations: FileOperations, forget_cached: bool = False
) -> Iterator[int]:
    """Open a new file; when the block ends, sync the file and give it the name `path`, durably.

    Until then it has a temporary name. `path` must be free (`FileExistsError`). On any error, in the block or after it,
    nothing is left behind. With `forget_cached` the kernel is asked to drop its copy of the file.
    """
    temporary = layout.temporary / path.name
    file = _create(temporary, operations)
    try:
        try:
            yield file
            operations.sync(file)
            if forget_cached:
                operations.forget_cached(file)
        finally:
            operations.close(file)
        operations.rename_new(temporary, path)
    except Exception:
        remove_if_possible(temporary, operations)
        raise
    try:
        operations.sync_folder(path.parent)
    except OSError:
        # The name may or may not survive a crash, and a later sync would not tell: do not rely on it.
        remove_if_possible(path, operations)
        raise


def write_atomically(path: Path, data: bytes, *, layout: StoreLayout, operations: FileOperations) -> None:
    """Write a small file as `atomic_file` does."""
    with atomic_file(path, layout=layout, operations=operations) as file:
        stream = FileStream(operations, file, direct=False)
        stream.write(memoryview(data))
        stream.finish()


def remove_if_possible(path: Path, operations: FileOperations) -> None:
    """Delete a file after an error, which is worth reporting more than an error of this call."""
    try:
        operations.remove(path)
    except OSError:
        pass


def _create(temporary: Path, operations: FileOperations) -> int:
    try:
        return operations.create(temporary)
    except FileExistsError:
        # An earlier attempt left it. Never write to such a file again, least of all after a failed sync.
        operations.remove(temporary)
        return operations.create(temporary)
