"""A small file that can be rewritten even on a full disk: space for one more version is reserved in advance."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from relight.regular_file import open_regular
from relight.runs.durable_file import sync_folder, write_durably

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class ReservedFile:
    """Rewrites `path` atomically, even on a full disk: the record that says the disk is full must still be written.

    `reserve`, called while there is space, puts a hidden file of `room_bytes` next to `path`. When a write by any
    process finds no space, that file is filled and becomes the new version in one rename, and the former version
    becomes the reserve: its space is never free, so nobody else can take it. Without hard links, or before there was a
    version, reserve again after that. A file system that copies on write may need space even for this; then the write
    fails like any other.
    """

    def __init__(self, path: Path, *, room_bytes: int = 4096) -> None:
        self.path = path
        # The next attempt removes leftovers with such a name.
        self._reserve = path.with_name(f".{path.name}.reserve.tmp")
        self._former = path.with_name(f".{path.name}.former.tmp")
        self._room_bytes = room_bytes

    def reserve(self) -> None:
        """Reserve the space, unless it is reserved already or the disk is full. Never raises."""
        try:
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError:
            return
        try:
            # Write real bytes: without fallocate, a larger file size alone reserves no blocks.
            if os.write(descriptor, bytes(self._room_bytes)) == self._room_bytes:
                return
        except OSError:
            pass
        finally:
            os.close(descriptor)
        self.release()

    def write(self, data: bytes, *, durable: bool = True) -> None:
        """Write `data` atomically. Raises `OSError` when that is impossible; the old version is then still there."""
        try:
            write_durably(self.path, data, durable=durable)
        except OSError as error:
            if error.errno not in _NO_ROOM or len(data) > self._room_bytes:
                raise
            try:
                self._write_into_reserve(data, durable=durable)
            except OSError:
                raise error from None

    def release(self) -> None:
        """Give the reserved space back. Never raises."""
        with contextlib.suppress(OSError):
            self._reserve.unlink()

    def _write_into_reserve(self, data: bytes, *, durable: bool) -> None:
        descriptor = open_regular(self._reserve, flags=os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if os.pwrite(descriptor, data, 0) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.ftruncate(descriptor, len(data))
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            self._former.hardlink_to(self.path)
        os.replace(self._reserve, self.path)  # noqa: PTH105
        with contextlib.suppress(OSError):
            os.replace(self._former, self._reserve)  # noqa: PTH105
        if durable:
            sync_folder(self.path.parent)
