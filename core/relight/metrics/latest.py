"""The newest value of every metric, from the last record of a few files. No numpy: listings and the CLI use it."""

from __future__ import annotations

import os
from pathlib import Path

from relight.metrics.file_format import (
    HEADER_LIMIT_BYTES,
    MetricFileName,
    MetricFormatError,
    decode_header,
    parse_file_name,
)

_FIRST_READ_BYTES = 512


def latest_values(folder: Path) -> dict[str, float]:
    """Latest value by full name ("train/loss"), sorted by name. Damaged files and a missing folder give nothing.

    For each stream the newest attempt that logged it counts; of its files, the newest record that has the name.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208  a listing of 200 runs does this 200 times
    except OSError:
        return {}
    parsed = [(known, name) for name in names if (known := parse_file_name(name)) is not None]
    streams: dict[str, list[tuple[MetricFileName, str]]] = {}
    for known, name in sorted(parsed, reverse=True):
        streams.setdefault(known.stream, []).append((known, name))
    values: dict[str, float] = {}
    for files in streams.values():
        values.update(_newest_of_stream(folder, files))
    return dict(sorted(values.items()))


def _newest_of_stream(folder: Path, files: list[tuple[MetricFileName, str]]) -> dict[str, float]:
    """`files` newest attempt first; the first attempt with a whole record decides."""
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
    """Time and values of the last whole record of a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        start = os.read(descriptor, _FIRST_READ_BYTES)
        if b"\n" not in start and len(start) == _FIRST_READ_BYTES:
            start = os.pread(descriptor, HEADER_LIMIT_BYTES, 0)
        header, begin = decode_header(start)
        count = (os.fstat(descriptor).st_size - begin) // header.record_bytes
        if count <= 0:
            return None
        data = os.pread(descriptor, header.record_bytes, begin + (count - 1) * header.record_bytes)
        if len(data) < header.record_bytes:
            return None
        _, time_s, *values = header.record_struct().unpack(data)
        return time_s, dict(zip(header.names, values, strict=True))
    except (OSError, MetricFormatError):
        return None
    finally:
        os.close(descriptor)
