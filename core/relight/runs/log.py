"""Reads a trainer's log: the last lines of a log of any size, or every new line as the log grows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from relight.errors import DamagedFile
from relight.regular_file import open_regular

TAIL_BYTES = 256 << 10
_POLL_S = 0.1
_CHUNK_BYTES = 64 << 10
_LINE_BYTES = 1 << 20
"""A longer line is handed out in pieces: a program that never ends its line must not fill the memory."""


def read_log_tail(path: Path, *, lines: int | None = None, max_bytes: int = TAIL_BYTES) -> str:
    """Return the last lines of the log: at most `lines`, from at most the last `max_bytes` of the file.

    Of a line that a progress bar rewrote many times, only the last state is kept. Bytes that are not UTF-8 are
    replaced. A missing log is empty. Raises `DamagedFile` for one that cannot be read.
    """
    try:
        with _open(path) as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(0, size - max_bytes)
            file.seek(max(0, begin - 1))
            data = file.read(size - max(0, begin - 1))
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if begin > 0:
        # Keep only complete lines; if there is none, keep the end of the one line.
        data = data[data.find(b"\n") + 1 :] if b"\n" in data[:-1] else data[1:]
    text = collapse_progress_bars(data.decode(errors="replace"))
    if lines is None:
        return text
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""


def collapse_progress_bars(text: str) -> str:
    """Reduce each line to what a terminal would show: text before the last carriage return was overwritten."""
    if "\r" not in text:
        return text
    return "\n".join(_last_state(line) for line in text.split("\n"))


class LogFollower:
    """Hands out what is added to a log, which may appear later. A log that is cut short is read from its beginning."""

    def __init__(self, path: Path, *, offset: int = 0) -> None:
        """Begin at byte `offset`."""
        self._path = path
        self._offset = offset
        self._inode = -1
        self._rest = b""

    def poll(self) -> Iterator[str]:
        """Yield the lines that were completed since the last call, with newlines, and with progress bars collapsed."""
        for data in self._new_bytes():
            *complete, rest = (self._rest + data).split(b"\n")
            self._rest = rest.rpartition(b"\r")[2] if len(rest) > _CHUNK_BYTES and not rest.endswith(b"\r") else rest
            for line in complete:
                yield _decode(line) + "\n"
            if len(self._rest) > _LINE_BYTES:
                rest, self._rest = self._rest, b""
                yield _decode(rest)

    def take_unfinished(self) -> str:
        """Return the last line if it has no newline yet. It is not handed out again."""
        rest, self._rest = self._rest, b""
        return _decode(rest)

    def _new_bytes(self) -> Iterator[bytes]:
        try:
            file = _open(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return
        with file:
            status = os.fstat(file.fileno())
            if status.st_size < self._offset or (self._inode not in (-1, status.st_ino)):
                self._offset, self._rest = 0, b""
            self._inode = status.st_ino
            file.seek(self._offset)
            while data := file.read(_CHUNK_BYTES):
                self._offset += len(data)
                yield data


def follow_log(path: Path, *, ended: Callable[[], bool], offset: int = 0) -> Iterator[str]:
    """Yield the log's lines from byte `offset` on, and what is added to it, until `ended` returns True.

    Everything that was written before that is handed out, an unfinished last line included.
    """
    follower = LogFollower(path, offset=offset)
    while True:
        last = ended()
        yield from follower.poll()
        if last:
            rest = follower.take_unfinished()
            if rest:
                yield rest
            return
        time.sleep(_POLL_S)


def tail_offset(path: Path, *, lines: int) -> int:
    """Return the offset of the log's last `lines` lines, searched for in its last `TAIL_BYTES`."""
    try:
        with _open(path) as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(0, size - TAIL_BYTES)
            file.seek(begin)
            data = file.read(size - begin)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    position = len(data) - 1 if data.endswith(b"\n") else len(data)
    for _ in range(lines):
        position = data.rfind(b"\n", 0, max(0, position))
        if position < 0:
            first = data.find(b"\n") + 1 if begin > 0 else 0
            return begin + first
    return begin + position + 1


def _open(path: Path) -> BinaryIO:
    """Open a log. Raises `FileNotFoundError` or `NotADirectoryError` when it is missing, else `DamagedFile`."""
    try:
        return open(open_regular(path), "rb")  # noqa: PTH123  a descriptor
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise DamagedFile(f"The log {str(path)!r} cannot be read: {error.strerror or error}.") from error


def _decode(line: bytes) -> str:
    return _last_state(line.decode(errors="replace"))


def _last_state(line: str) -> str:
    line = line.rstrip("\r")
    return line.rpartition("\r")[2]
