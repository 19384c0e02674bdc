"""The latest value of every metric, read from the last record of a few files. No numpy, for fast lists."""

from __future__ import annotations

import os
from pathlib import Path

from relight.errors import DamagedFile
from relight.metrics.file_format import MetricFileName
from relight.metrics.metric_file import MetricFile
from relight.metrics.metric_scan import list_file_names


def latest_values(folder: Path) -> dict[str, float]:
    """Return the latest value by full name ("train/loss"), sorted by name. Damaged files are skipped.

    For each stream, the newest attempt that logged it counts, and of its files the newest record with that name.
    """
    streams: dict[str, list[tuple[MetricFileName, str]]] = {}
    for known, name in reversed(list_file_names(folder)):
        streams.setdefault(known.stream, []).append((known, name))
    values: dict[str, float] = {}
    for files in streams.values():
        values.update(_newest_of_stream(folder, files))
    return dict(sorted(values.items()))


def _newest_of_stream(folder: Path, files: list[tuple[MetricFileName, str]]) -> dict[str, float]:
    """Return the values of one stream. `files` come newest attempt first; the first with a complete record counts."""
    found: list[tuple[float, dict[str, float]]] = []
    attempt = -1
    for known, name in files:
        if found and known.attempt != attempt:
            break
        record = _last_record(os.path.join(folder, name))  # noqa: PTH118
        if record is not None:
            attempt = known.attempt
            found.append(record)
    values: dict[str, float] = {}
    for _, record_values in sorted(found, key=lambda item: item[0]):
        values.update(record_values)
    return values


def _last_record(path: str) -> tuple[float, dict[str, float]] | None:
    """Return time and values of the file's last complete record; None when it has none or is damaged."""
    try:
        with MetricFile(path) as file:
            count = file.count_records()
            data = file.read_bytes(first=count - 1, count=1) if count else b""
            if not data:
                return None
            _, time_s, *values = file.header.record_struct().unpack(data)
            return time_s, dict(zip(file.header.names, values, strict=True))
    except (OSError, DamagedFile):
        return None
