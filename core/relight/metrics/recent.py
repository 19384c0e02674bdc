"""The recent past of one metric in a few samples, read without numpy and without reading the whole file."""

from __future__ import annotations

import math
import struct
from pathlib import Path

from relight.errors import DamagedFile
from relight.metrics.file_format import metric_file_name, split_name
from relight.metrics.metric_file import MetricFile

_RECORDS = 3600
_SAMPLES = 60


def read_recent(folder: Path, name: str, *, attempt: int) -> list[tuple[float, float]]:
    """Return (time in seconds since 1970, value) of up to 60 records, spread evenly over the last 3,600 of an attempt.

    Oldest first. The newest record is always among them, and values that are not finite are left out. Empty when the
    attempt has not logged that metric, or its file is damaged.
    """
    stream, column = split_name(name)
    try:
        with MetricFile(folder / metric_file_name(stream, attempt=attempt)) as file:
            if column not in file.header.columns:
                return []
            record, place = file.header.record_struct(), file.header.columns.index(column)
            count = file.count_records()
            step = max(1, min(count, _RECORDS) // _SAMPLES)
            found: list[tuple[float, float]] = []
            for index in range(count - 1, max(-1, count - 1 - _RECORDS), -step):
                _, time_s, *values = record.unpack(file.read_bytes(first=index, count=1))
                if math.isfinite(values[place]) and math.isfinite(time_s):
                    found.append((time_s, values[place]))
            return found[_SAMPLES - 1 :: -1]
    except (OSError, DamagedFile, struct.error):  # struct.error: the file was cut short this instant
        return []
