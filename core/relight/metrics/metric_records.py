"""The records of a metric file as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from relight.metrics.file_format import MetricHeader
from relight.metrics.metric_file import MetricFile

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MetricRecords:
    """Records of one file in the order in which they were written: steps [n], times [n], values [n, columns]."""

    header: MetricHeader
    steps: Integers
    times: Floats
    values: Floats

    def column(self, name: str) -> Floats:
        """Return the values [n] of one column, named without its stream."""
        return np.ascontiguousarray(self.values[:, self.header.columns.index(name)])


def read_records(path: Path, *, first: int = 0, count: int | None = None) -> MetricRecords:
    """Read `count` records from record `first` on; with None, all that are there now.

    Only complete records count. Raises `DamagedFile` when the header is not a valid one, and `OSError`.
    """
    with MetricFile(path) as file:
        header = file.header
        # Read, not mapped: when a mapped file is cut short, SIGBUS kills its reader. Reading a million records of five
        # values takes only some 20 ms.
        data = file.read_bytes(first=first, count=file.count_records() - first if count is None else count)
    words = np.frombuffer(data, dtype="<i8").reshape(-1, header.record_bytes // 8)
    floats = words.view("<f8")
    return MetricRecords(header, words[:, 0].copy(), floats[:, 1].copy(), floats[:, 2:])
