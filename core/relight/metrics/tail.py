"""Following the metrics of a run while it trains: each poll reads the new bytes only. No numpy."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from relight.metrics.file_format import (
    HEADER_LIMIT_BYTES,
    MetricFileName,
    MetricFormatError,
    MetricHeader,
    decode_header,
    parse_file_name,
)

READ_BYTES = 4 << 20
"""At most this much of a file in one poll; the rest comes with the next ones."""


class MetricRow(NamedTuple):
    """One record. `values` by full name: "train/loss"."""

    stream: str
    attempt: int
    step: int
    time_s: float
    values: dict[str, float]


class MetricTail:
    """Yields every record of a run once, as it is written.

    Files may appear at any moment; one that is replaced or cut short is read from its beginning again; one that is
    damaged is left out for as long as it stays as it is.
    """

    def __init__(self, folder: Path, *, from_start: bool = True) -> None:
        """With `from_start=False` what is there already is passed over. The folder need not exist yet."""
        self._folder = folder
        self._files: dict[str, _Followed] = {}
        if not from_start:
            self._skip_existing()

    def poll(self) -> list[MetricRow]:
        """The records that were written since the last poll, by file and in the order of writing. Never raises."""
        rows: list[MetricRow] = []
        names = self._list()
        for _, name in names:
            followed = self._files.setdefault(name, _Followed())
            try:
                rows += followed.read_new(os.path.join(self._folder, name))  # noqa: PTH118
            except OSError:
                continue
        if len(self._files) > len(names):
            present = {name for _, name in names}
            self._files = {name: followed for name, followed in self._files.items() if name in present}
        return rows

    def _list(self) -> list[tuple[MetricFileName, str]]:
        try:
            names = os.listdir(self._folder)  # noqa: PTH208
        except OSError:
            return []
        return sorted((known, name) for name in names if (known := parse_file_name(name)) is not None)

    def _skip_existing(self) -> None:
        for _, name in self._list():
            followed = self._files[name] = _Followed()
            try:
                followed.skip_to_end(os.path.join(self._folder, name))  # noqa: PTH118
            except OSError:
                continue


@dataclass
class _Followed:
    """How far one file has been read."""

    inode: int = -1
    offset: int = 0
    size: int = -1
    header: MetricHeader | None = None
    names: tuple[str, ...] = ()
    record: struct.Struct = field(default_factory=lambda: struct.Struct("<qd"))

    def read_new(self, path: str) -> list[MetricRow]:
        status = os.stat(path)  # noqa: PTH116
        if status.st_ino != self.inode or status.st_size < self.offset:
            self.inode, self.offset, self.size, self.header = status.st_ino, 0, -1, None
        if status.st_size == self.size:
            return []
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self.header is None and not self._read_header(descriptor):
                self.size = status.st_size
                return []
            whole = max(0, status.st_size - self.offset) // self.record.size * self.record.size
            limit = max(self.record.size, READ_BYTES // self.record.size * self.record.size)
            data = os.pread(descriptor, min(whole, limit), self.offset)
        finally:
            os.close(descriptor)
        data = data[: len(data) // self.record.size * self.record.size]
        self.offset += len(data)
        # Only a file that was read to its last whole record may be passed over until it grows.
        self.size = status.st_size if len(data) == whole else -1
        return self._rows(data)

    def skip_to_end(self, path: str) -> None:
        status = os.stat(path)  # noqa: PTH116
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.inode = status.st_ino
            if self._read_header(descriptor):
                self.offset += max(0, status.st_size - self.offset) // self.record.size * self.record.size
        finally:
            os.close(descriptor)

    def _read_header(self, descriptor: int) -> bool:
        try:
            self.header, self.offset = decode_header(os.pread(descriptor, HEADER_LIMIT_BYTES, 0))
        except MetricFormatError:
            return False
        self.names = self.header.names
        self.record = self.header.record_struct()
        return True

    def _rows(self, data: bytes) -> list[MetricRow]:
        assert self.header is not None
        stream, attempt, names = self.header.stream, self.header.attempt, self.names
        return [
            MetricRow(stream, attempt, step, time_s, dict(zip(names, values, strict=True)))
            for step, time_s, *values in self.record.iter_unpack(data)
        ]
