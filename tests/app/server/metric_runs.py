"""Makes run folders with little more than metrics, for tests of the server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from relight.metrics.file_format import MetricHeader, encode_header, metric_file_name
from relight.metrics.writer import MetricWriter
from relight.runs.catalog import create_run
from relight.runs.layout import RunLayout
from relight.runs.process_identity import current_process
from relight.runs.record_file import write_record
from relight.runs.records import AttemptProcesses, AttemptStart, PreparedTask, TaskReference


def make_run(folder: Path, name: str = "digits") -> RunLayout:
    """Make a run without an attempt."""
    return create_run(folder, PreparedTask(TaskReference(kind="builtin", name="digits")), name=name).layout


def begin_attempt(layout: RunLayout, number: int, *, from_step: int = 0, time_s: float) -> None:
    """Begin an attempt with this process as its trainer, so that it shows as running."""
    attempt = layout.attempt(number)
    attempt.folder.mkdir(parents=True)
    reason = "launch" if number == 1 else "resume"
    write_record(attempt.start, AttemptStart(attempt=number, time_s=time_s, reason=reason, from_step=from_step))
    write_record(attempt.processes, AttemptProcesses(supervisor=current_process(), trainer=current_process()))


def log_rows(
    layout: RunLayout,
    rows: Iterable[tuple[int, Mapping[str, float]]],
    *,
    stream: str = "train",
    attempt: int = 1,
    begin_s: float = 1_000.0,
) -> None:
    """Log rows of (step, values), one second apart."""
    writer = MetricWriter(layout.metrics, stream=stream, attempt=attempt)
    for number, (step, values) in enumerate(rows):
        writer.log(step, values, time_s=begin_s + number)
    writer.close()


def append_records(folder: Path, columns: Sequence[str], *, count: int, first: int = 1) -> Path:
    """Append records with random values to one metric file, much faster than a training logs them."""
    path = folder / metric_file_name("train", attempt=1)
    folder.mkdir(parents=True, exist_ok=True)
    records = np.random.default_rng(first).normal(size=(count, 2 + len(columns)))
    records.view(np.int64)[:, 0] = np.arange(first, first + count)
    records[:, 1] = 1000.0 + np.arange(first, first + count)
    with path.open("ab") as file:
        if file.tell() == 0:
            file.write(encode_header(MetricHeader("train", 1, tuple(columns))))
        file.write(records.tobytes())
    return path
