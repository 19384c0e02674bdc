"""The recent past of one metric in a few samples, read without numpy and without reading the whole file."""

from __future__ import annotations

import math
import struct
from pathlib import Path

from relight.errors import DamagedFile
from relight.metrics.file_format import metric_file_name, split_name
from relight.metrics.metric_file import MetricFile


def read_recent(
    folder: Path, name: str, *, attempt: int, records: int = 3600, samples: int = 60
) -> list[tuple[float, float]]:
    """(time in seconds since 1970, value) of up to `samples` records, evenly spread over the last `records` of a file.

    Oldest first, the newest record always among them, values that are not finite left out. Of one attempt; nothing when
    it has not logged that metric or its file is damaged.
    """
    stream, column = split_name(name)
    try:
        with MetricFile(folder / metric_file_name(stream, attempt=attempt)) as file:
            if column not in file.header.columns:
                return []
            record, place = file.header.record_struct(), file.header.columns.index(column)
            count = file.count_records()
            step = max(1, min(count, records) // samples)
            found: list[tuple[float, float]] = []
            for index in range(count - 1, max(-1, count - 1 - records), -step):
                _, time_s, *values = record.unpack(file.read_bytes(first=index, count=1))
                if math.isfinite(values[place]) and math.isfinite(time_s):
                    found.append((time_s, values[place]))
            return found[samples - 1 :: -1]
    except (OSError, DamagedFile, struct.error):  # the last: the file was cut short this instant
        return []
