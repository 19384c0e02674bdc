"""Several metrics side by side, one row per step, as the CSV shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from relight.metrics.metric_records import Floats, Integers, read_records
from relight.metrics.series import Series, empty_series, read_samples, split_series
from relight.metrics.windows import StepWindow


@dataclass(frozen=True)
class MetricTable:
    """Rows sorted by step. The ghost rows of a step come before its main row, older attempts first.

    `steps`, `times`, `attempts` and `ghost` are [n]. `values` is [n, names], with NaN where a name was not logged;
    `present` [n, names] distinguishes such a gap from a logged NaN. `times` is the latest of a row's records.
    """

    names: tuple[str, ...]
    steps: Integers
    times: Floats
    attempts: Integers
    ghost: npt.NDArray[np.bool_]
    values: Floats
    present: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.steps)


def read_table(
    folder: Path, names: Sequence[str], *, ghosts: bool = False, window: StepWindow | None = None
) -> MetricTable:
    """Read the metrics with those full names, or only the steps of `window`.

    Each cell is what `read_split_series` returns for its name.
    """
    samples = read_samples(folder, names, read=read_records if window is None else window.read)
    split = [split_series(samples.pop(name)) for name in names]
    main = _join(names, [part.main for part in split], ghost=False)
    if not ghosts:
        return main
    tables = [main]
    for attempt in sorted({int(ghost.attempts[0]) for part in split for ghost in part.ghosts}):
        lines = [_ghost_of(name, part.ghosts, attempt) for name, part in zip(names, split, strict=True)]
        tables.append(_join(names, lines, ghost=True))
    return _stack(tables)


def _ghost_of(name: str, ghosts: Iterable[Series], attempt: int) -> Series:
    for ghost in ghosts:
        if ghost.attempts[0] == attempt:
            return ghost
    return empty_series(name)


def _join(names: Sequence[str], lines: Sequence[Series], *, ghost: bool) -> MetricTable:
    """Make one row for each step that any of the lines has; each line has a step at most once."""
    every = [line.steps for line in lines]
    steps = np.unique(np.concatenate(every)) if every else np.empty(0, dtype=np.int64)
    times = np.full(len(steps), -np.inf)
    attempts = np.zeros(len(steps), dtype=np.int64)
    values = np.full((len(steps), len(lines)), np.nan)
    present = np.zeros((len(steps), len(lines)), dtype=np.bool_)
    for column, line in enumerate(lines):
        rows = np.searchsorted(steps, line.steps)
        values[rows, column] = line.values
        present[rows, column] = True
        times[rows] = np.maximum(times[rows], line.times)
        attempts[rows] = np.maximum(attempts[rows], line.attempts)
    return MetricTable(tuple(names), steps, times, attempts, np.full(len(steps), ghost), values, present)


def _stack(tables: Sequence[MetricTable]) -> MetricTable:
    steps = np.concatenate([table.steps for table in tables])
    attempts = np.concatenate([table.attempts for table in tables])
    ghost = np.concatenate([table.ghost for table in tables])
    order = np.lexsort((attempts, ~ghost, steps))
    return MetricTable(
        tables[0].names,
        steps[order],
        np.concatenate([table.times for table in tables])[order],
        attempts[order],
        ghost[order],
        np.concatenate([table.values for table in tables])[order],
        np.concatenate([table.present for table in tables])[order],
    )
