"""The recent past of one metric in a few samples, read without numpy and without reading the whole file."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

from relight.metrics.file_format import (
    HEADER_LIMIT_BYTES,
    MetricFormatError,
    decode_header,
    metric_file_name,
    split_name,
)


def read_recent(
    folder: Path, name: str, *, attempt: int, records: int = 3600, samples: int = 60
) -> list[tuple[float, float]]:
    """(time in seconds since 1970, value) of up to `samples` records, evenly spread over the last `records` of a file.

    Oldest first, the newest record always among them, values that are not finite left out. Of one attempt; nothing when
    it has not logged that metric or its file is damaged.
    """
    stream, column = split_name(name)
    try:
        descriptor = os.open(folder / metric_file_name(stream, attempt=attempt), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        header, begin = decode_header(os.pread(descriptor, HEADER_LIMIT_BYTES, 0))
        if column not in header.columns:
            return []
        record = header.record_struct()
        count = (os.fstat(descriptor).st_size - begin) // header.record_bytes
        step = max(1, min(count, records) // samples)
        found: list[tuple[float, float]] = []
        for index in range(count - 1, max(-1, count - 1 - records), -step):
            _, time_s, *values = record.unpack(
                os.pread(descriptor, header.record_bytes, begin + index * header.record_bytes)
            )
            value = values[header.columns.index(column)]
            if math.isfinite(value) and math.isfinite(time_s):
                found.append((time_s, value))
        return found[samples - 1 :: -1]
    except (OSError, MetricFormatError, struct.error):  # the last: cut off this instant
        return []
    finally:
        os.close(descriptor)
