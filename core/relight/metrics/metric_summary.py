"""Summarizes a run's metrics: latest, lowest and highest value of each main line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from relight.metrics.csv import MACHINE_STREAM
from relight.metrics.metric_scan import scan_metrics
from relight.metrics.series import read_series


class MetricSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One metric in a few numbers. The order of the fields is that of `relight metrics --json`."""

    metric: str
    latest: float
    step: int
    """Of the latest value."""
    lowest: float | None
    """Of the finite values; None without any."""
    highest: float | None
    records: int


def summarize_metrics(folder: Path, streams: Sequence[str] | None) -> list[MetricSummary]:
    """Summarize every metric of `streams`; None means all but the machine's."""
    rows = []
    for name in scan_metrics(folder).names:
        stream = name.partition("/")[0]
        if stream == MACHINE_STREAM if streams is None else stream not in streams:
            continue
        series = read_series(folder, name)
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
