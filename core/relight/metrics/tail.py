"""Following the metrics of a run while it trains: each poll reads only what is new. No numpy."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from relight.errors import DamagedFile
from relight.metrics.file_format import MetricHeader
from relight.metrics.metric_file import MetricFile
from relight.metrics.metric_scan import list_file_names

READ_BYTES = 4 << 20
"""At most this much of a file in one poll; the rest comes with the next ones."""

Positions = dict[str, dict[str, int]]
"""How many records of each file have been read, by stream and file name."""


class MetricRow(NamedTuple):
    """One record. `values` are by full name: "train/loss"."""

    stream: str
    attempt: int
    step: int
    time_s: float
    values: dict[str, float]


@dataclass(frozen=True)
class RecordBlock:
    """Consecutive records of one file. File name and number identify a record forever: metric files only grow."""

    file: str
    first: int
    """Number of the first record, counted from 0."""
    header: MetricHeader
    data: bytes

    def __len__(self) -> int:
        return len(self.data) // self.header.record_bytes

    def keep_last(self, count: int) -> RecordBlock:
        """Return the last `count` records, or all when there are fewer."""
        skipped = max(0, len(self) - count)
        data = self.data[skipped * self.header.record_bytes :]
        return RecordBlock(self.file, self.first + skipped, self.header, data)

    def read_columns(self) -> list[tuple[float, ...]]:
        """Return the steps, the times (seconds since 1970), and the values of each column of the header."""
        return list(zip(*self.header.record_struct().iter_unpack(self.data), strict=True))

    def read_rows(self) -> list[MetricRow]:
        """Return the records one by one."""
        stream, attempt, names = self.header.stream, self.header.attempt, self.header.names
        return [
            MetricRow(stream, attempt, step, time_s, dict(zip(names, values, strict=True)))
            for step, time_s, *values in self.header.record_struct().iter_unpack(self.data)
        ]


class MetricTail:
    """Hands out every record of a run once, as it is written.

    Files may appear at any moment. One that is replaced or cut short is read from its beginning again. A damaged one is
    skipped until it changes. Not for two threads at once.
    """

    def __init__(self, folder: Path, *, from_start: bool = True) -> None:
        """Follow the metric files in `folder`, which need not exist yet. `from_start=False` skips what is there now."""
        self._folder = folder
        self._files: dict[str, _FollowedFile] = {}
        self.replaced = False
        """Whether the last poll found a known file cut, replaced or removed: earlier positions are void then."""
        if not from_start:
            for _, name in list_file_names(folder):
                self._files[name] = _FollowedFile(folder, name)
                self._files[name].skip_to_end()

    def poll(self) -> list[RecordBlock]:
        """Return what was written since the last poll: at most one block for each file. Never raises."""
        names = [name for _, name in list_file_names(self._folder)]
        gone = self._files.keys() - names
        self.replaced = any(self._files.pop(name).header is not None for name in gone)
        blocks: list[RecordBlock] = []
        for name in names:
            if name not in self._files:
                self._files[name] = _FollowedFile(self._folder, name)
            file = self._files[name]
            block = file.read_new()
            self.replaced |= file.replaced
            if block is not None:
                blocks.append(block)
        return blocks

    def positions(self) -> Positions:
        """Return how many records of each file have been read."""
        positions: Positions = {}
        for name, file in self._files.items():
            if file.header is not None:
                positions.setdefault(file.header.stream, {})[name] = file.records
        return positions


class _FollowedFile:
    """How far one file has been read. Until its header is complete and valid it has no records."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = os.path.join(folder, name)  # noqa: PTH118
        self._name = name
        self.header: MetricHeader | None = None
        self.records = 0
        self.replaced = False
        """Whether the last reading found another file than before, or a shorter one."""
        self._inode = -1
        self._done: tuple[int, int] | None = None
        """Inode and size at which there was nothing more to read."""

    def skip_to_end(self) -> None:
        """Count the records that are there as read."""
        with contextlib.suppress(OSError, DamagedFile), MetricFile(self._path) as file:
            self.header, self._inode = file.header, file.inode
            self.records = file.count_records()

    def read_new(self) -> RecordBlock | None:
        self.replaced = False
        try:
            status = os.stat(self._path)  # noqa: PTH116
            seen = (status.st_ino, status.st_size)
            if seen == self._done:
                return None
            with MetricFile(self._path) as file:
                if file.inode != self._inode or file.count_records() < self.records:
                    self._forget()
                    self._inode = file.inode
                block, more = self._read(file)
                self._done = None if more else seen
                return block
        except DamagedFile:
            self._forget()
        except OSError:
            pass  # removed this instant, or unreadable for now
        return None

    def _forget(self) -> None:
        self.replaced = self.header is not None
        self.header, self.records, self._done = None, 0, None

    def _read(self, file: MetricFile) -> tuple[RecordBlock | None, bool]:
        """Read the next records, and say whether there are more."""
        self.header = file.header
        new = file.count_records() - self.records
        if new == 0:
            return None, False
        data = file.read_bytes(first=self.records, count=min(new, max(1, READ_BYTES // file.header.record_bytes)))
        if not data:
            return None, True  # cut short this instant
        block = RecordBlock(self._name, self.records, file.header, data)
        self.records += len(block)
        return block, len(block) < new
