"""The columns of metric files that were drawn last, in memory: a zoom or another browser reads only new records.

A file is read in chunks and only the wanted columns are kept, so a file with hundreds of metrics costs little memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relight.metrics.file_format import MetricHeader
from relight.metrics.metric_file import MetricFile
from relight.metrics.metric_records import Floats, Integers, MetricRecords

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class _Columns:
    """Some columns of a file's first records: steps [n], times [n], values [columns, n]. Replaced, never changed."""

    inode: int
    names: tuple[str, ...]
    steps: Integers
    times: Floats
    values: Floats

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def size_bytes(self) -> int:
        return self.steps.nbytes + self.times.nbytes + self.values.nbytes


class ColumnCache:
    """Columns of the files that were read last, at most `most_bytes` of them. For several threads at once."""

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Path, _Columns] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: Path, names: Collection[str], *, go_on: Callable[[], None]) -> MetricRecords:
        """Read the columns with these full names, those that the file has. Calls `go_on`, which may raise, often.

        Raises `DamagedFile` when the header is not a valid one, and `OSError`.
        """
        with MetricFile(path) as file:
            header = file.header
            wanted = [column for column, name in zip(header.columns, header.names, strict=True) if name in names]
            known = self._find(path, file)
            if known is None:
                columns = _read(file, wanted, go_on=go_on)
            else:
                columns = _append(known, _read(file, known.names, first=len(known), go_on=go_on))
                missing = [name for name in wanted if name not in columns.names]
                if missing and columns.size_bytes + 8 * len(columns) * len(missing) > self._most_bytes:
                    columns = _read(file, wanted, go_on=go_on)
                elif missing:
                    columns = _join(columns, _read(file, missing, go_on=go_on))
        self._keep(path, columns)
        narrow = MetricHeader(header.stream, header.attempt, columns.names)
        return MetricRecords(narrow, columns.steps, columns.times, columns.values.T)

    def _find(self, path: Path, file: MetricFile) -> _Columns | None:
        """Return what is known of the file, if it still begins with that."""
        with self._lock:
            known = self._kept.get(path)
            if known is not None:
                self._kept.move_to_end(path)
        if known is None or known.inode != file.inode or not len(known):
            return None
        last = _read(file, known.names, first=len(known) - 1, count=1)
        same = len(last) == 1 and last.steps[0] == known.steps[-1] and last.times[0] == known.times[-1]
        return known if same else None

    def _keep(self, path: Path, columns: _Columns) -> None:
        with self._lock:
            self._kept.pop(path, None)
            if columns.size_bytes <= self._most_bytes:
                self._kept[path] = columns
            while sum(kept.size_bytes for kept in self._kept.values()) > self._most_bytes:
                self._kept.popitem(last=False)


def _read(
    file: MetricFile,
    names: Sequence[str],
    *,
    first: int = 0,
    count: int | None = None,
    go_on: Callable[[], None] = lambda: None,
) -> _Columns:
    """Read these columns of `count` records from record `first` on; None means all that are there now."""
    if count is None:
        count = max(0, file.count_records() - first)
    places = [2 + file.header.columns.index(name) for name in names]
    steps, times = np.empty(count, np.int64), np.empty(count)
    values = np.empty((len(places), count))
    at_once = max(1, _CHUNK_BYTES // file.header.record_bytes)
    done = 0
    while done < count:
        go_on()
        data = file.read_bytes(first=first + done, count=min(at_once, count - done))
        if not data:
            break  # cut short this instant
        words = np.frombuffer(data, dtype="<i8").reshape(-1, file.header.record_bytes // 8)
        floats = words.view("<f8")
        here = slice(done, done + len(words))
        steps[here], times[here] = words[:, 0], floats[:, 1]
        for column, place in enumerate(places):
            values[column, here] = floats[:, place]
        done += len(words)
    return _Columns(file.inode, tuple(names), steps[:done], times[:done], values[:, :done])


def _append(columns: _Columns, rows: _Columns) -> _Columns:
    if not len(rows):
        return columns
    return _Columns(
        columns.inode,
        columns.names,
        np.concatenate([columns.steps, rows.steps]),
        np.concatenate([columns.times, rows.times]),
        np.concatenate([columns.values, rows.values], axis=1),
    )


def _join(columns: _Columns, added: _Columns) -> _Columns:
    count = min(len(columns), len(added))  # the file has grown in between
    values = np.concatenate([columns.values[:, :count], added.values[:, :count]])
    return _Columns(columns.inode, columns.names + added.names, columns.steps[:count], columns.times[:count], values)
