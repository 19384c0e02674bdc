"""Writes small files atomically: complete, or not at all, whatever kills the process or the machine."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write_durably(path: Path, data: bytes, *, replace: bool = True, durable: bool = True) -> None:
    """Write `data` to `path` atomically; with `durable` it survives a power cut once this returns.

    A temporary file in the same folder is written, fsynced and renamed, and the folder is fsynced. With `replace=False`
    an existing file stays and `FileExistsError` is raised, so exactly one of several writers wins. The folder must
    exist: one that was made here would bring a removed run back as a ghost. An `OSError` (full disk, no permission)
    leaves the old file as it was, and no temporary file.
    """
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        _write_new(temporary, data, durable=durable)
        if replace:
            os.replace(temporary, path)  # noqa: PTH105
        else:
            _rename_without_replacing(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make `folder` and its missing parents; they survive a power cut once this returns."""
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        if folder.parent == folder:
            break
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Make the entries of `folder` durable. Does nothing on a file system that cannot fsync a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    else:
        os.fstat(descriptor)  # fails when the file system is dead: on xfs, fsync of a folder does not report that
    finally:
        os.close(descriptor)


def _write_new(path: Path, data: bytes, *, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_without_replacing(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # No hard links here (exFAT, some network shares): claim the name, then replace the empty file in one rename.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        os.replace(temporary, path)  # noqa: PTH105
