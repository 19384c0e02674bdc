"""Reads metric files one range of steps after the other, so that millions of rows need little memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relight.errors import DamagedFile
from relight.metrics.metric_records import Integers, MetricRecords, read_records
from relight.metrics.metric_scan import scan_metrics

_BLOCK_RECORDS = 16_384
_SAMPLES_PER_WINDOW = 32


@dataclass(frozen=True)
class _Block:
    """Consecutive records of a file, and their lowest and highest step."""

    first: int
    count: int
    lowest: int
    highest: int


class StepWindows:
    """Ranges of steps in a `metrics` folder with about `rows` records each.

    Each file is read once to find out where its steps are. Records that are logged later are left out.
    """

    def __init__(self, folder: Path, names: list[str], *, rows: int) -> None:
        self._blocks: dict[Path, list[_Block]] = {}
        sampled: list[Integers] = []
        total = 0
        every = max(1, rows // _SAMPLES_PER_WINDOW)
        wanted = set(names)
        for file in scan_metrics(folder).files:
            if wanted.isdisjoint(file.header.names):
                continue
            blocks = self._blocks[file.path] = []
            for first, records in _read_blocks(file.path):
                steps = records.steps
                blocks.append(_Block(first, len(steps), int(steps.min()), int(steps.max())))
                sampled.append(steps[::every].copy())
                total += len(steps)
        ordered = np.sort(np.concatenate(sampled)) if sampled else np.empty(0, dtype=np.int64)
        count = max(1, total // rows)
        inner = [int(ordered[len(ordered) * place // count]) for place in range(1, count)]
        self._bounds = [None, *sorted(set(inner)), None]

    def __iter__(self) -> Iterator[StepWindow]:
        for low, high in zip(self._bounds[:-1], self._bounds[1:], strict=True):
            yield StepWindow(self._blocks, low, high)


@dataclass(frozen=True)
class StepWindow:
    """The steps from `low` up to, but not including, `high`; None leaves that end open."""

    blocks: dict[Path, list[_Block]]
    low: int | None
    high: int | None

    def read(self, path: Path) -> MetricRecords:
        """Read a file's records of these steps."""
        parts = []
        for block in self.blocks.get(path, []):
            if (self.low is None or block.highest >= self.low) and (self.high is None or block.lowest < self.high):
                records = read_records(path, first=block.first, count=block.count)
                inside = np.ones(len(records.steps), dtype=np.bool_)
                if self.low is not None:
                    inside &= records.steps >= self.low
                if self.high is not None:
                    inside &= records.steps < self.high
                parts.append(
                    MetricRecords(records.header, records.steps[inside], records.times[inside], records.values[inside])
                )
        if not parts:
            return read_records(path, count=0)
        return MetricRecords(
            parts[0].header,
            np.concatenate([part.steps for part in parts]),
            np.concatenate([part.times for part in parts]),
            np.concatenate([part.values for part in parts]),
        )


def _read_blocks(path: Path) -> Iterator[tuple[int, MetricRecords]]:
    first = 0
    while True:
        try:
            records = read_records(path, first=first, count=_BLOCK_RECORDS)
        except (OSError, DamagedFile):
            return  # removed or replaced this instant
        if not len(records.steps):
            return
        yield first, records
        first += len(records.steps)
