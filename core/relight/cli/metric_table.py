"""A run's metrics, one row each: latest, lowest and highest value of the main line."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from relight.errors import UsageError
from relight.metrics.csv import MACHINE_STREAM
from relight.metrics.metric_file import read_names, read_streams
from relight.metrics.series import read_series
from relight.runs.layout import RunLayout
from relight.wording import describe_value

HEAD = ("METRIC", "LATEST", "AT STEP", "LOWEST", "HIGHEST", "RECORDS")


class MetricSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. `lowest` and `highest` skip what is not finite; None when nothing is left. `step` is of `latest`."""

    metric: str
    latest: float
    step: int
    lowest: float | None
    highest: float | None
    records: int

    def cells(self) -> tuple[str, ...]:
        """The row of the table under `HEAD`."""
        return (
            self.metric,
            describe_value(self.latest),
            str(self.step),
            describe_value(self.lowest),
            describe_value(self.highest),
            str(self.records),
        )


def check_streams(layout: RunLayout, streams: Sequence[str]) -> None:
    """Raise `UsageError` for a stream that the run has not logged."""
    known = read_streams(layout.metrics)
    for name in streams:
        if name not in known:
            there = f"it has {', '.join(known)}" if known else "it has logged nothing yet"
            raise UsageError(f"{layout.run_id} has no stream '{name}': {there}.")


def summarize_metrics(layout: RunLayout, streams: Sequence[str] | None) -> list[MetricSummary]:
    """Summarize every metric of `streams`; None takes all but the machine's."""
    rows = []
    for name in read_names(layout.metrics):
        stream = name.partition("/")[0]
        if stream == MACHINE_STREAM if streams is None else stream not in streams:
            continue
        series = read_series(layout.metrics, name)
        if len(series) == 0:
            continue
        finite = series.values[np.isfinite(series.values)]
        rows.append(
            MetricSummary(
                metric=name,
                latest=float(series.values[-1]),
                step=int(series.steps[-1]),
                lowest=float(finite.min()) if len(finite) else None,
                highest=float(finite.max()) if len(finite) else None,
                records=len(series),
            )
        )
    return rows
