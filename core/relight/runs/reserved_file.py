"""A small file that can be rewritten on a full disk, too: room for one more version of it is taken in advance."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from relight.runs.durable_file import sync_folder, write_durably

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class ReservedFile:
    """Rewrites `path` atomically. What says that the disk is full must not need the disk to have room.

    `reserve`, called while there is room, puts a hidden file of `room_bytes` beside it. When a write, by whichever
    process, finds no room, that file becomes the new version, in one rename; then it is time to reserve again. File
    systems that copy on write may need room even for that; then it fails as any write.
    """

    def __init__(self, path: Path, *, room_bytes: int = 4096) -> None:
        self.path = path
        # Leftovers with such names are swept by the next attempt.
        self._reserve = path.with_name(f".{path.name}.reserve.tmp")
        self._room_bytes = room_bytes

    def reserve(self) -> None:
        """Take the room, unless it is taken already or there is none now. Never raises."""
        try:
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError:
            return
        try:
            # Written, not only promised: the blocks must be there even where there is no fallocate.
            if os.write(descriptor, bytes(self._room_bytes)) == self._room_bytes:
                return
        except OSError:
            pass
        finally:
            os.close(descriptor)
        self.release()

    def write(self, data: bytes, *, durable: bool = True) -> None:
        """Write `data` atomically; `OSError` when it cannot be, with the old version still there."""
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
        """Give the room back. Never raises."""
        with contextlib.suppress(OSError):
            self._reserve.unlink()

    def _write_into_reserve(self, data: bytes, *, durable: bool) -> None:
        descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.pwrite(descriptor, data, 0) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.ftruncate(descriptor, len(data))
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(self._reserve, self.path)  # noqa: PTH105
        if durable:
            sync_folder(self.path.parent)
