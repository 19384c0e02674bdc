"""An open metric file: the one place that opens one and checks its header. No numpy."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from relight.errors import DamagedFile
from relight.metrics.file_format import HEADER_LIMIT_BYTES, MetricFormatError, decode_header
from relight.regular_file import open_regular

MOST_BYTES = 1 << 30
"""Some ten million records of ten values. Whole files are read into memory."""
_FIRST_READ_BYTES = 512
"""Enough for most headers: a list of 200 runs opens some thousand files."""


class MetricFile:
    """A metric file that is open for reading. Its header has been checked; records are counted as the file grows."""

    def __init__(self, path: str | Path) -> None:
        """Open the file. Raises `DamagedFile` when its header is not a valid one, and `OSError`."""
        self._descriptor = open_regular(path, most_bytes=MOST_BYTES)
        try:
            start = os.read(self._descriptor, _FIRST_READ_BYTES)
            if b"\n" not in start and len(start) == _FIRST_READ_BYTES:
                start = os.pread(self._descriptor, HEADER_LIMIT_BYTES, 0)
            self.header, self._begin = decode_header(start)
        except MetricFormatError as error:
            self.close()
            raise DamagedFile(
                f"The metric file {str(path)!r} is damaged: {error}. Its curves are missing; all others are shown."
            ) from error
        except BaseException:
            self.close()
            raise

    @property
    def inode(self) -> int:
        """The file's number in its file system: a file that replaces this one has another."""
        return os.fstat(self._descriptor).st_ino

    def count_records(self) -> int:
        """Return how many complete records the file has now."""
        return max(0, os.fstat(self._descriptor).st_size - self._begin) // self.header.record_bytes

    def read_bytes(self, *, first: int, count: int) -> bytes:
        """Return the bytes of `count` records from record `first` on: fewer where the file ends, only complete ones."""
        assert first >= 0
        width = self.header.record_bytes
        offset, wanted = self._begin + first * width, max(0, count) * width
        data = os.pread(self._descriptor, wanted, offset)
        while len(data) < wanted and (more := os.pread(self._descriptor, wanted - len(data), offset + len(data))):
            data += more  # a single call reads at most 2 GiB
        return data[: len(data) // width * width]

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
