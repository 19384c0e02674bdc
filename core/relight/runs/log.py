"""Reading what a trainer printed: the end of a log of any size, and following one as it grows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TAIL_BYTES = 256 << 10
_CHUNK_BYTES = 64 << 10
_LINE_BYTES = 1 << 20
"""A line that is longer is handed on in pieces: a program that never ends one must not fill the memory."""


def read_log_tail(path: Path, *, lines: int | None = None, max_bytes: int = TAIL_BYTES) -> str:
    """The last lines of the log: at most `lines`, and at most `max_bytes` of the file are read.

    A line that a progress bar wrote over and over shows its last state only. Bytes that are no UTF-8 are replaced. A
    missing log is empty.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(0, size - max_bytes)
            file.seek(max(0, begin - 1))
            data = file.read(size - max(0, begin - 1))
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if begin > 0:
        # Only whole lines, unless there is none: then the end of the one that there is.
        data = data[data.find(b"\n") + 1 :] if b"\n" in data[:-1] else data[1:]
    text = collapse_progress_bars(data.decode(errors="replace"))
    if lines is None:
        return text
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""


def collapse_progress_bars(text: str) -> str:
    """Each line as a terminal would leave it: what stands before the last carriage return was overwritten."""
    if "\r" not in text:
        return text
    return "\n".join(_last_state(line) for line in text.split("\n"))


class LogFollower:
    """Hands out what is added to a log. It may appear later, and one that is cut short is read from its beginning."""

    def __init__(self, path: Path, *, offset: int = 0) -> None:
        """Begin at byte `offset`."""
        self._path = path
        self._offset = offset
        self._inode = -1
        self._rest = b""

    def poll(self) -> list[str]:
        """The lines that have been finished since the last call, with their newlines and progress bars collapsed."""
        lines: list[str] = []
        for data in self._new_bytes():
            *whole, rest = (self._rest + data).split(b"\n")
            lines += [_decode(line) + "\n" for line in whole]
            self._rest = rest.rpartition(b"\r")[2] if len(rest) > _CHUNK_BYTES and not rest.endswith(b"\r") else rest
            if len(self._rest) > _LINE_BYTES:
                lines.append(_decode(self._rest))
                self._rest = b""
        return lines

    def take_unfinished(self) -> str:
        """The last line, when it has no newline yet; it is not handed out again."""
        rest, self._rest = self._rest, b""
        return _decode(rest)

    def peek_unfinished(self) -> str:
        """The state of the last line while it is unfinished: where a progress bar is right now."""
        return _decode(self._rest)

    def _new_bytes(self) -> Iterator[bytes]:
        try:
            file = self._path.open("rb")
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


def follow_log(path: Path, *, ended: Callable[[], bool], offset: int = 0, poll_s: float = 0.1) -> Iterator[str]:
    """Line by line what the log holds from byte `offset` on and what is added, until `ended` says that nothing will be.

    Everything that was written before `ended` turned true is handed out, an unfinished last line too.
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
        time.sleep(poll_s)


def tail_offset(path: Path, *, lines: int, max_bytes: int = TAIL_BYTES) -> int:
    """Where the last `lines` lines of the log begin, looking at no more than its last `max_bytes`."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(0, size - max_bytes)
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


def _decode(line: bytes) -> str:
    return _last_state(line.decode(errors="replace"))


def _last_state(line: str) -> str:
    line = line.rstrip("\r")
    return line.rpartition("\r")[2]
