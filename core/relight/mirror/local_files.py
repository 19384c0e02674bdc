"""Reads the files of a run's folder that are to be copied, while the training writes them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from relight.mirror.mirrored_files import LOG_BYTES
from relight.regular_file import open_regular

_CHUNK_BYTES = 4 << 20

OnSent = Callable[[int], None]
"""Called with the number of bytes that go out next."""


class SourceGone(Exception):
    """A file that was to be copied is gone or cannot be read: the retention may have removed it this instant."""


class FileMark(NamedTuple):
    """Differs when the file has changed."""

    bytes: int
    mtime_ns: int
    inode: int


def mark_file(path: Path) -> FileMark | None:
    """Return what identifies the content of a file; None without a regular file."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return FileMark(status.st_size, status.st_mtime_ns, status.st_ino) if stat.S_ISREG(status.st_mode) else None


class LocalFile:
    """An open file, as long as it was when it was opened; what is appended later belongs to the next copy."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises `SourceGone`."""
        try:
            self._descriptor = open_regular(path)
            self._end = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise SourceGone(f"{path} cannot be read: {error.strerror or error}.") from error
        self._path = path
        self._begin = 0
        self._prefix = b""

    @property
    def size_bytes(self) -> int:
        """How many bytes `read` yields."""
        return len(self._prefix) + self._end - self._begin

    def keep_end(self) -> None:
        """Leave out the beginning of a log that is too long, and say so in its first line."""
        if self._end > LOG_BYTES:
            self._begin = self._end - LOG_BYTES
            self._prefix = f"[The first {self._begin:,} bytes of this log were not copied.]\n".encode()

    def read(self, on_sent: OnSent) -> Iterator[bytes]:
        """Yield the content in pieces. Raises `SourceGone`."""
        if self._prefix:
            yield self._prefix
        position = self._begin
        while position < self._end:
            try:
                chunk = os.pread(self._descriptor, min(_CHUNK_BYTES, self._end - position), position)
            except OSError as error:
                raise SourceGone(f"{self._path} cannot be read: {error.strerror or error}.") from error
            if not chunk:
                raise SourceGone(f"{self._path} was cut short.")
            position += len(chunk)
            on_sent(len(chunk))
            yield chunk

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
