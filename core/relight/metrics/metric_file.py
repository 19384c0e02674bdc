"""Reading metric files whole, as numpy arrays."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from relight.errors import DamagedFile
from relight.metrics.file_format import (
    HEADER_LIMIT_BYTES,
    MetricFormatError,
    MetricHeader,
    decode_header,
    metric_file_name,
    parse_file_name,
)

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_FIRST_READ_BYTES = 4096


@dataclass(frozen=True)
class MetricFile:
    """A metric file whose header has been read; `part` orders the files of one attempt and stream."""

    path: Path
    header: MetricHeader
    begin: int
    """Where the records begin."""
    part: int

    @classmethod
    def open(cls, path: Path) -> MetricFile:
        """Read the header; `DamagedFile` when it is none of ours, `FileNotFoundError` when the file is gone."""
        known = parse_file_name(path.name)
        try:
            with path.open("rb") as file:
                start = file.read(_FIRST_READ_BYTES)
                if b"\n" not in start:
                    start += file.read(HEADER_LIMIT_BYTES)
            header, begin = decode_header(start)
        except FileNotFoundError:
            raise
        except MetricFormatError as error:
            raise DamagedFile(
                f"The metric file {str(path)!r} is damaged: {error}. Its curves are not shown; the others are."
            ) from error
        except OSError as error:
            raise DamagedFile(f"The metric file {str(path)!r} cannot be read: {error.strerror or error}.") from error
        return cls(path, header, begin, known.part if known is not None else 1)

    @property
    def attempt(self) -> int:
        """The attempt that wrote it."""
        return self.header.attempt

    def read_records(self, *, first: int = 0, count: int | None = None) -> MetricRecords:
        """The whole records that are there now, or `count` of them from record `first` on.

        What is left over at the end is ignored.
        """
        # Read, not mapped: a mapped file that somebody cuts short kills its reader with SIGBUS, and for a million
        # records of five values reading takes only some 20 ms.
        width = self.header.record_bytes // 8
        with self.path.open("rb", buffering=0) as file:
            there = max(0, os.fstat(file.fileno()).st_size - self.begin) // self.header.record_bytes - first
            count = max(0, there if count is None else min(count, there))
            file.seek(self.begin + first * self.header.record_bytes)
            words = np.fromfile(file, dtype="<i8", count=count * width)
        words = words[: len(words) // width * width].reshape(-1, width)
        floats = words.view("<f8")
        return MetricRecords(self.header, words[:, 0].copy(), floats[:, 1].copy(), floats[:, 2:])


@dataclass(frozen=True)
class MetricRecords:
    """The records of one file, in the order in which they were written: steps [n], times [n], values [n, columns]."""

    header: MetricHeader
    steps: Integers
    times: Floats
    values: Floats

    def column(self, name: str) -> Floats:
        """The values [n] of one column, named without its stream."""
        return np.ascontiguousarray(self.values[:, self.header.columns.index(name)])


@dataclass(frozen=True)
class MetricScan:
    """The metric files of a run, by attempt, stream and part; and a sentence for each that is damaged."""

    files: tuple[MetricFile, ...]
    damaged: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Full names of everything that was logged, sorted."""
        return sorted({name for file in self.files for name in file.header.names})

    @property
    def streams(self) -> list[str]:
        """Names of the streams, sorted."""
        return sorted({file.header.stream for file in self.files})


def scan_metrics(folder: Path, *, stream: str | None = None) -> MetricScan:
    """Open the header of every metric file in `folder`, or of one stream's only. A missing folder holds none."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  the dashboard does this often
    except OSError:
        return MetricScan((), ())
    wanted = None if stream is None else parse_file_name(metric_file_name(stream, attempt=1))
    files: list[MetricFile] = []
    damaged: list[str] = []
    for known, name in sorted((known, name) for name in names if (known := parse_file_name(name)) is not None):
        if wanted is not None and known.stream != wanted.stream:
            continue
        try:
            file = MetricFile.open(folder / name)
        except FileNotFoundError:
            continue
        except DamagedFile as error:
            damaged.append(str(error))
            continue
        if stream is None or file.header.stream == stream:
            files.append(file)
    return MetricScan(tuple(files), tuple(damaged))


def read_streams(folder: Path) -> list[str]:
    """Names of the streams that were logged, sorted."""
    return scan_metrics(folder).streams


def read_names(folder: Path) -> list[str]:
    """Full names of everything that was logged, sorted: "train/loss"."""
    return scan_metrics(folder).names
