"""Metrics as CSV, for people and for pandas."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from relight.metrics.reader import scan_metrics
from relight.metrics.table import MetricTable, read_metrics_table

MACHINE_STREAM = "system"
"""Sampled by time and not by step, so it is written only when it is asked for."""


def write_csv(folder: Path, out: TextIO, streams: Sequence[str] | None = None, *, ghosts: bool = False) -> int:
    """Write the metrics of `folder` to `out`, and return the number of rows.

    Columns: step, time (seconds since 1970), attempt, then each metric by its full name; with `ghosts` also ghost (1 or
    0) after attempt. One row a step, so no step shows twice; a ghost has a row of its own. A value that was not logged
    at that step is empty. Numbers are written so that reading them back gives the same bits. `streams`: all but the
    machine's when None.
    """
    names = [
        name
        for file in scan_metrics(folder).files
        for name in file.header.names
        if (file.header.stream != MACHINE_STREAM if streams is None else file.header.stream in streams)
    ]
    names = sorted(dict.fromkeys(names), key=_stream_order)
    table = read_metrics_table(folder, names, ghosts=ghosts)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", "time", "attempt", *(["ghost"] if ghosts else []), *names])
    writer.writerows(_rows(table, ghosts=ghosts))
    return len(table)


def _stream_order(name: str) -> tuple[int, str]:
    """Training first, then validation, then what else there is; within a stream as it was logged."""
    stream = name.partition("/")[0]
    return {"train": 0, "validation": 1}.get(stream, 2), stream


def _rows(table: MetricTable, *, ghosts: bool) -> Iterator[list[str]]:
    for row in range(len(table)):
        cells = [str(int(table.steps[row])), repr(float(table.times[row])), str(int(table.attempts[row]))]
        if ghosts:
            cells.append("1" if table.ghost[row] else "0")
        values, present = table.values[row].tolist(), table.present[row].tolist()
        cells += [repr(value) if there else "" for value, there in zip(values, present, strict=True)]
        yield cells
