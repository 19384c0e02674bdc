"""Writes metrics so that kill -9 loses nothing: each call is one write, directly to the file."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from relight.metrics.file_format import MetricHeader, check_columns, encode_header, metric_file_name
from relight.metrics.metric_names import clean_name

_LOG = logging.getLogger(__name__)

RETRY_S = 1.0
"""After a failed write, calls only collect records for this long before one tries to write again."""
OPEN_FILES = 16
"""How many files a writer keeps open. A training that logs under new names all the time needs more files than that."""
BACKLOG_BYTES = 4 << 20
"""How much is kept in memory while writing fails; further records are dropped and counted."""


class OddNames(ValueError):
    """Among the names of metrics is one that a file cannot hold: see `clean_name`."""


class MetricWriter:
    """Writes one stream of one attempt. Not thread-safe.

    Telemetry must never end a training: a write that fails (full disk, missing folder) warns once, keeps the records in
    memory, and later calls try again. `log` raises only for values that are not numbers, and `OddNames`.
    """

    def __init__(self, folder: Path, *, stream: str, attempt: int) -> None:
        """Write to the run's `metrics` folder. No file is created before the first `log`."""
        self._folder = folder
        self._stream = stream
        self._attempt = attempt
        self._parts: dict[frozenset[str], _Part] = {}
        self._names: tuple[str, ...] | None = None
        self._current: _Part | None = None

    def log(self, step: int, values: Mapping[str, float], *, time_s: float | None = None) -> None:
        """Append one record. `values` are by column name, without the stream; each set of names has its own file."""
        names = tuple(values)
        if names != self._names:
            if not names:
                return
            self._current = self._part_for(names)
            self._names = names
        part = self._current
        assert part is not None
        ordered = values.values() if part.columns == names else [values[name] for name in part.columns]
        try:
            record = part.record.pack(step, time.time() if time_s is None else time_s, *ordered)
        except struct.error as error:
            raise TypeError(f"Metrics must be numbers: step {step!r}, {dict(values)!r} of {self._stream!r}.") from error
        part.append(record)

    def flush(self) -> bool:
        """Try to write what a failed write left in memory; return whether everything is in the files now."""
        written = [part.flush() for part in self._parts.values()]
        return all(written)

    def close(self) -> None:
        """Write what is still in memory and close the files. A later `log` starts new ones."""
        for part in self._parts.values():
            part.close()
        self._parts.clear()
        self._names = self._current = None

    def _part_for(self, names: tuple[str, ...]) -> _Part:
        key = frozenset(names)
        part = self._parts.pop(key, None)
        if part is None:
            if any(clean_name(name) != name for name in names):
                raise OddNames
            check_columns(names)
            part = _Part(self._folder, MetricHeader(self._stream, self._attempt, names))
        part.reopen()
        self._parts[key] = part  # in the order of their last use
        for unused in islice(reversed(self._parts.values()), OPEN_FILES, OPEN_FILES + 1):
            unused.close()
        return part


class _Part:
    """One metric file. Each write starts where the last complete one ended, so it also completes a partial write."""

    def __init__(self, folder: Path, header: MetricHeader) -> None:
        self.columns = header.columns
        self.record: struct.Struct = header.record_struct()
        self._folder = folder
        self._header = header
        self._path: Path | None = None
        self._descriptor = -1
        self._written = 0
        self._pending = bytearray(encode_header(header))
        self._not_before = 0.0
        self._warned = False
        self._dropped = 0

    def append(self, record: bytes) -> None:
        if not self._pending:
            try:
                count = os.pwrite(self._descriptor, record, self._written)
            except OSError as error:
                self._pending += record
                self._fail(error)
                return
            self._written += count
            if count != len(record):  # the disk filled up in the middle of the record
                self._pending += record[count:]
            return
        if len(self._pending) < BACKLOG_BYTES:
            self._pending += record
        else:
            self._dropped += 1
        if time.monotonic() >= self._not_before:
            self.flush()

    def flush(self) -> bool:
        try:
            if self._descriptor < 0 and self._pending:
                self._open()
            while self._pending:
                count = os.pwrite(self._descriptor, self._pending, self._written)
                self._written += count
                del self._pending[:count]
        except OSError as error:
            self._fail(error)
            return False
        self._not_before = 0.0
        if self._dropped:
            _LOG.warning("Metrics of %r: %d records were lost while nothing could be written.", *self._lost())
        return True

    def close(self) -> None:
        self.flush()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def reopen(self) -> None:
        """Open the file again after a `close`. If that fails, the next write tries again, and warns."""
        if self._descriptor < 0 and self._path is not None:
            with contextlib.suppress(OSError):
                self._open()

    def _open(self) -> None:
        if self._path is not None:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            return
        self._folder.mkdir(exist_ok=True)  # not its parents: a removed run must not come back
        part = 1
        while True:
            path = self._folder / metric_file_name(self._header.stream, attempt=self._header.attempt, part=part)
            try:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                self._path = path
                return
            except FileExistsError:
                part += 1

    def _lost(self) -> tuple[str, int]:
        count, self._dropped = self._dropped, 0
        return self._header.stream, count

    def _fail(self, error: OSError) -> None:
        self._not_before = time.monotonic() + RETRY_S
        if not self._warned:
            self._warned = True
            _LOG.warning(
                "Metrics of %r cannot be written to %r: %s. Training continues; they stay in memory and are retried.",
                self._header.stream,
                str(self._folder),
                error.strerror or error,
            )
