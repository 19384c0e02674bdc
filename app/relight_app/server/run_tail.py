"""New rows of one run's metric files, column by column, each with its place in the file.

The place (file name, number of the record) identifies a row for good: files are append-only. A browser that has read
the history knows how many records of each file that was, so it can tell a row it has from one it lacks, whatever was
dropped, sent twice or reordered on the way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relight.metrics.file_format import (
    HEADER_LIMIT_BYTES,
    MetricFormatError,
    MetricHeader,
    decode_header,
    parse_file_name,
)

_MOST_AT_ONCE = 5_000
"""Of more rows than this in one poll only the last are told: whoever watches sees the gap and reads the history."""
Positions = dict[str, dict[str, int]]
"""Records by stream and file name: how far somebody has read."""


@dataclass(frozen=True)
class RowBlock:
    """Consecutive records of one file: the first one's number, and all of them as arrays of one length."""

    file: str
    first: int
    header: MetricHeader
    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    values: NDArray[np.float64]
    """Shape (rows, columns)."""


class RunTail:
    """Follows a `metrics` folder from where it is now. Not for two threads at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _FileTail] = {}
        self.replaced = False
        """Whether a known file has been cut or replaced since the last poll: positions told before mean nothing now."""
        self._list_files()
        for file in self._files.values():
            file.skip_to_end()

    def poll(self) -> list[RowBlock]:
        """What was appended since the last call: at most one block for each file."""
        self.replaced = False
        self._list_files()
        blocks: list[RowBlock] = []
        for name, file in list(self._files.items()):
            found = file.read()
            if found is None:
                self.replaced = True
                del self._files[name]
                continue
            blocks += found
        return blocks

    def positions(self) -> Positions:
        """How far each file has been read."""
        return _positions(self._files)

    def _list_files(self) -> None:
        for name in _metric_file_names(self._folder):
            if name not in self._files:
                self._files[name] = _FileTail(self._folder / name)


def read_positions(folder: Path) -> Positions:
    """How many whole records each metric file has now."""
    files = {name: _FileTail(folder / name) for name in _metric_file_names(folder)}
    for file in files.values():
        file.skip_to_end()
    return _positions(files)


def _positions(files: dict[str, _FileTail]) -> Positions:
    positions: Positions = {}
    for name, file in files.items():
        if file.stream is not None:
            positions.setdefault(file.stream, {})[name] = file.records
    return positions


def _metric_file_names(folder: Path) -> Iterator[str]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names alone, ten times a second
    except OSError:
        return
    for name in sorted(names):
        if parse_file_name(name) is not None:
            yield name


class _FileTail:
    """One metric file. Until its header is whole (or when it is damaged) it has no records."""

    def __init__(self, path: Path) -> None:
        self.records = 0
        self._path = path
        self._inode: int | None = None
        self._header: MetricHeader | None = None
        self._start = 0
        self._dtype = np.dtype([])

    @property
    def stream(self) -> str | None:
        """The stream, once the header is there."""
        return self._header.stream if self._header is not None else None

    def skip_to_end(self) -> None:
        """Count what is there as read."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if self._read_header(file.fileno(), status):
                    self.records = self._count(status)
        except OSError:
            return

    def read(self) -> list[RowBlock] | None:
        """The new records; None when the file was cut, replaced or removed."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        if self._inode is not None and (status.st_ino != self._inode or self._count(status) < self.records):
            return None
        if self._header is not None and self._count(status) == self.records:
            return []
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if not self._read_header(file.fileno(), status):
                    return []
                return self._read_until(file.fileno(), self._count(status))
        except OSError:
            return []

    def _count(self, status: os.stat_result) -> int:
        return max(0, status.st_size - self._start) // self._dtype.itemsize if self._header is not None else 0

    def _read_header(self, descriptor: int, status: os.stat_result) -> bool:
        if self._header is not None and status.st_ino == self._inode:
            return True
        start = os.pread(descriptor, 4096, 0)
        if b"\n" not in start:
            start = os.pread(descriptor, HEADER_LIMIT_BYTES, 0)
        try:
            header, self._start = decode_header(start)
        except MetricFormatError:
            return False
        self._header = header
        self._inode = status.st_ino
        self._dtype = np.dtype([("step", "<i8"), ("time", "<f8"), ("values", "<f8", (len(header.columns),))])
        return True

    def _read_until(self, descriptor: int, until: int) -> list[RowBlock]:
        header, width = self._header, self._dtype.itemsize
        assert header is not None
        first = max(self.records, until - _MOST_AT_ONCE)
        data = os.pread(descriptor, (until - first) * width, self._start + first * width)
        rows = np.frombuffer(data[: len(data) - len(data) % width], self._dtype)
        if not len(rows):
            return []
        self.records = first + len(rows)
        return [RowBlock(self._path.name, first, header, rows["step"], rows["time"], rows["values"])]
