"""Metrics as CSV, for people and for pandas."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from relight.metrics.metric_scan import scan_metrics
from relight.metrics.table import MetricTable, read_table
from relight.metrics.windows import StepWindows

MACHINE_STREAM = "system"
"""Sampled by time and not by step, so it is written only when it is asked for."""
_BLOCK_ROWS = 10_000


def write_csv(folder: Path, out: TextIO, streams: Sequence[str] | None = None, *, ghosts: bool = False) -> int:
    """Write the metrics of `folder` to `out`, and return the number of rows.

    Columns: step, time (seconds since 1970), attempt, then each metric by its full name; with `ghosts` also ghost (1 or
    0) after attempt. One row a step, so no step shows twice; a ghost has a row of its own. A value that was not logged
    at that step is empty. Numbers are written so that reading them back gives the same bits. `streams`: all but the
    machine's when None. A million rows need no more memory than some ten thousand.
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
    for window in StepWindows(folder, names):
        table = read_table(folder, names, ghosts=ghosts, window=window)
        writer.writerows(_rows(table, ghosts=ghosts))
        count += len(table)
    return count


def _stream_order(name: str) -> tuple[int, str]:
    """Training first, then validation, then what else there is; within a stream as it was logged."""
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
