"""One metric over all attempts of a run: its main line, which has each step once, and its ghosts.

A step belongs to the latest attempt that logged it. What earlier attempts logged for that step is ghost: it was trained
again later, is drawn faint, and is never deleted. If an attempt has two records of a step, the later one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from relight.errors import DamagedFile
from relight.metrics.file_format import split_name
from relight.metrics.metric_records import Floats, Integers, MetricRecords, read_records
from relight.metrics.metric_scan import scan_metrics


@dataclass(frozen=True)
class Series:
    """A metric with its full name: steps, times (seconds since 1970), values and attempts, each [n]."""

    name: str
    steps: Integers
    times: Floats
    values: Floats
    attempts: Integers

    def __len__(self) -> int:
        return len(self.steps)

    def select(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice) -> Series:
        """Return the records that a mask, an index array or a slice selects."""
        return Series(self.name, self.steps[chosen], self.times[chosen], self.values[chosen], self.attempts[chosen])


@dataclass(frozen=True)
class SplitSeries:
    """A metric split in two: `main` sorted by step, and a ghost for each attempt that was partly trained again."""

    main: Series
    ghosts: tuple[Series, ...]


def read_series(folder: Path, name: str) -> Series:
    """Return the main line of the metric with that full name, sorted by step. Empty when it was never logged."""
    return read_split_series(folder, name).main


def read_split_series(folder: Path, name: str) -> SplitSeries:
    """Return the main line and the ghosts of the metric with that full name."""
    return split_series(read_samples(folder, [name])[name])


def read_samples(
    folder: Path, names: Iterable[str], *, read: Callable[[Path], MetricRecords] = read_records
) -> dict[str, Series]:
    """Return every record of several metrics, by full name, as it was logged: attempt after attempt, steps repeating.

    `read` reads a file; each file is read once. Use this directly for a metric that is a function of time rather than
    of the step: the machine is sampled many times during a long step.
    """
    parts: dict[str, list[Series]] = {name: [] for name in names}
    for stream in {split_name(name)[0] for name in parts}:
        for file in scan_metrics(folder, stream=stream).files:
            wanted = [name for name in file.header.names if name in parts]
            if not wanted:
                continue
            try:
                records = read(file.path)
            except (OSError, DamagedFile):
                continue  # removed or replaced this instant
            attempts = np.full(len(records.steps), file.header.attempt, dtype=np.int64)
            for name in wanted:
                values = records.column(split_name(name)[1])
                parts[name].append(Series(name, records.steps, records.times, values, attempts))
    return {name: _concatenate(name, found) for name, found in parts.items()}


def split_series(samples: Series) -> SplitSeries:
    """Split records that come as they were logged: attempt by attempt, and within one in the order of writing."""
    if len(samples) == 0:
        return SplitSeries(samples, ())
    if samples.attempts[0] == samples.attempts[-1] and bool(np.all(samples.steps[1:] > samples.steps[:-1])):
        return SplitSeries(samples, ())  # one attempt, no step twice: by far the most common case
    ordered = samples.select(np.lexsort((np.arange(len(samples)), samples.attempts, samples.steps)))
    next_is_other_step = np.append(ordered.steps[1:] != ordered.steps[:-1], True)
    next_is_other_attempt = np.append(ordered.attempts[1:] != ordered.attempts[:-1], True)
    retrained = ordered.select(~next_is_other_step & next_is_other_attempt)
    ghosts = tuple(retrained.select(retrained.attempts == attempt) for attempt in np.unique(retrained.attempts))
    return SplitSeries(ordered.select(next_is_other_step), ghosts)


def empty_series(name: str) -> Series:
    """Return a series without records."""
    integers, floats = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
    return Series(name, integers, floats, floats, integers)


def _concatenate(name: str, parts: list[Series]) -> Series:
    """Join the records of several files, attempt by attempt; those of one attempt by time, as they were written."""
    parts = [part for part in parts if len(part)]
    if len(parts) <= 1:
        return parts[0] if parts else empty_series(name)
    joined = Series(
        name,
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.attempts for part in parts]),
    )
    if len({int(part.attempts[0]) for part in parts}) == len(parts):
        return joined
    return joined.select(np.lexsort((joined.times, joined.attempts)))
