"""One metric over all attempts of a run: the main line, in which each step is there once, and the ghosts.

The rule: a step belongs to the latest attempt that logged it. What earlier attempts logged for that step is ghost:
trained again later, shown faint, never deleted. Logged twice in one attempt, the later record counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from relight.metrics.file_format import split_name
from relight.metrics.reader import Floats, Integers, scan_metrics


@dataclass(frozen=True)
class Series:
    """A metric: steps, times (seconds since 1970), values and attempts, each [n]. `name` is full."""

    name: str
    steps: Integers
    times: Floats
    values: Floats
    attempts: Integers

    def __len__(self) -> int:
        return len(self.steps)

    def select(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice) -> Series:
        """The records that a mask, an index array or a slice picks."""
        return Series(self.name, self.steps[chosen], self.times[chosen], self.values[chosen], self.attempts[chosen])


@dataclass(frozen=True)
class SplitSeries:
    """A metric told apart: `main` sorted by step, and one ghost for each attempt that was trained again in part."""

    main: Series
    ghosts: tuple[Series, ...]


def read_series(folder: Path, name: str) -> Series:
    """The main line of the metric with that full name, sorted by step. Empty when nobody logged it."""
    return read_split_series(folder, name).main


def read_ghosts(folder: Path, name: str) -> list[Series]:
    """The parts of that metric which a later attempt trained again: one series an attempt, sorted by step."""
    return list(read_split_series(folder, name).ghosts)


def read_split_series(folder: Path, name: str) -> SplitSeries:
    """Main line and ghosts of the metric with that full name, in one reading."""
    return split_series(read_samples(folder, name))


def read_samples(folder: Path, name: str) -> Series:
    """Every record of the metric as it was logged: attempt after attempt, steps repeating.

    For what is a function of time rather than of the step: the machine is sampled many times during a long step.
    """
    stream, column = split_name(name)
    parts: list[Series] = []
    for file in scan_metrics(folder, stream=stream).files:
        if column not in file.header.columns:
            continue
        try:
            records = file.read_records()
        except OSError:
            continue  # removed this instant
        attempts = np.full(len(records.steps), file.attempt, dtype=np.int64)
        parts.append(Series(name, records.steps, records.times, records.column(column), attempts))
    if not parts:
        return _empty(name)
    samples = _contiguous(parts[0]) if len(parts) == 1 else _concatenate(parts)
    several_files_of_an_attempt = len({int(part.attempts[0]) for part in parts if len(part)}) < len(parts)
    if several_files_of_an_attempt:
        samples = samples.select(np.lexsort((samples.times, samples.attempts)))
    return samples


def split_series(samples: Series) -> SplitSeries:
    """Apply the rule to records as they were logged (attempts in order; within one, in the order of writing)."""
    if len(samples) == 0:
        return SplitSeries(samples, ())
    if samples.attempts[0] == samples.attempts[-1] and bool(np.all(samples.steps[1:] > samples.steps[:-1])):
        return SplitSeries(samples, ())  # one attempt, nothing twice: by far the most frequent case
    ordered = samples.select(np.lexsort((np.arange(len(samples)), samples.attempts, samples.steps)))
    next_is_other_step = np.append(ordered.steps[1:] != ordered.steps[:-1], True)
    next_is_other_attempt = np.append(ordered.attempts[1:] != ordered.attempts[:-1], True)
    retrained = ordered.select(~next_is_other_step & next_is_other_attempt)
    ghosts = tuple(retrained.select(retrained.attempts == attempt) for attempt in np.unique(retrained.attempts))
    return SplitSeries(ordered.select(next_is_other_step), ghosts)


def _empty(name: str) -> Series:
    integers, floats = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
    return Series(name, integers, floats, floats, integers)


def _contiguous(part: Series) -> Series:
    return Series(
        part.name,
        np.ascontiguousarray(part.steps),
        np.ascontiguousarray(part.times),
        np.ascontiguousarray(part.values),
        part.attempts,
    )


def _concatenate(parts: list[Series]) -> Series:
    return Series(
        parts[0].name,
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.attempts for part in parts]),
    )
