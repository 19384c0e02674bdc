"""Writes metrics as CSV, for spreadsheets and pandas."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from relight.metrics.metric_scan import scan_metrics
from relight.metrics.table import MetricTable, read_table
from relight.metrics.windows import StepWindows

MACHINE_STREAM = "system"
"""Sampled by time, not by step, so it is written only on request."""
WINDOW_ROWS = 50_000
_BLOCK_ROWS = 10_000


def write_csv(folder: Path, out: TextIO, streams: Sequence[str] | None = None, *, ghosts: bool = False) -> int:
    """Write the metrics of `folder` to `out`, and return the number of rows.

    The columns are step, time (seconds since 1970), attempt, and each metric by its full name; with `ghosts` also ghost
    (1 or 0) after attempt. Each step has one row; ghosts have rows of their own. A value that was not logged at a step
    is empty. Reading a number back gives the same bits. `streams` None means all but the machine's. A million rows need
    no more memory than ten thousand.
    """
    names = [
        name
        for file in scan_metrics(folder).files
        for name in file.header.names
        if (file.header.stream != MACHINE_STREAM if streams is None else file.header.stream in streams)
    ]
    names = sorted(dict.fromkeys(names), key=_stream_order)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", "time", "attempt", *(["ghost"] if ghosts else []), *names])
    count = 0
    for window in StepWindows(folder, names, rows=WINDOW_ROWS):
        table = read_table(folder, names, ghosts=ghosts, window=window)
        writer.writerows(_rows(table, ghosts=ghosts))
        count += len(table)
    return count


def _stream_order(name: str) -> tuple[int, str]:
    """Sort training first, then validation, then other streams; columns stay in the order in which they were logged."""
    stream = name.partition("/")[0]
    return {"train": 0, "validation": 1}.get(stream, 2), stream


def _rows(table: MetricTable, *, ghosts: bool) -> Iterator[list[str]]:
    for begin in range(0, len(table), _BLOCK_ROWS):
        block = slice(begin, begin + _BLOCK_ROWS)
        columns: list[list[Any]] = [
            table.steps[block].tolist(),
            [repr(time_s) for time_s in table.times[block].tolist()],
            table.attempts[block].tolist(),
        ]
        if ghosts:
            columns.append(table.ghost[block].astype(int).tolist())
        for column in range(len(table.names)):
            values, present = table.values[block, column].tolist(), table.present[block, column].tolist()
            columns.append([repr(value) if there else "" for value, there in zip(values, present, strict=True)])
        yield from map(list, zip(*columns, strict=True))
