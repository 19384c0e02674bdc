"""Notices a loss that has become NaN or infinite: since which step, and which checkpoint is the last healthy one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from relight.errors import DamagedFile
from relight.metrics.file_format import split_name
from relight.metrics.metric_file import MetricFile
from relight.metrics.metric_scan import scan_metrics
from relight.runs.layout import RunLayout

if TYPE_CHECKING:
    from relight.metrics.series import Series

_TRAIN = "train"
_LOSS = re.compile(r"(?<![^\W_\d])(?:loss|nll|perplexity|ppl)(?![^\W_\d])", re.IGNORECASE)
_REMEMBERED = 256


class NonFinite(msgspec.Struct, frozen=True, kw_only=True):
    """A loss that is not finite any more."""

    metric: str
    """Full name."""
    value: str
    """The latest value: "nan", "inf" or "-inf"."""
    since_step: int | None = None
    """First step of the main line from which on no value is finite; None in lists."""
    last_finite_step: int | None = None
    """None when it never was finite, and in lists."""
    healthy_step: int | None = None
    """Step of the newest checkpoint whose weights gave a finite value later; None without one, and in lists."""

    @property
    def sentence(self) -> str:
        """What happened, and what is still good."""
        what = {"nan": "NaN", "inf": "infinite", "-inf": "minus infinity"}[self.value]
        since = f" since step {self.since_step}" if self.since_step is not None else ""
        if self.since_step is None:
            return f"{self.metric} is {what}."
        if self.healthy_step is None:
            return f"{self.metric} is {what}{since}, and no checkpoint is from before that."
        return f"{self.metric} is {what}{since}. The last healthy checkpoint is at step {self.healthy_step}."


class _Stretch(NamedTuple):
    """The end of a metric's main line on which no value is finite."""

    since_step: int
    last_finite_step: int | None


def notice_non_finite(metrics: Mapping[str, float], best_metric: str | None) -> NonFinite | None:
    """Look only at the latest values: the training's losses, and the metric that decides the best checkpoint."""
    for name, value in metrics.items():
        if not math.isfinite(value) and (name == best_metric or _is_training_loss(name)):
            return NonFinite(metric=name, value=str(value))
    return None


def trace_non_finite(layout: RunLayout, metrics: Mapping[str, float], best_metric: str | None) -> NonFinite | None:
    """Return what became non-finite first, with its step and the last healthy checkpoint; None while all is finite.

    Costs nothing while the latest values are finite. Otherwise the metric is read once; while it stays non-finite, only
    its new records are read.
    """
    found: list[NonFinite] = []
    for name, value in metrics.items():
        if math.isfinite(value) or not (name == best_metric or _is_training_loss(name)):
            continue
        stretch = _find_stretch(layout.metrics, name)
        if stretch is not None:
            found.append(
                NonFinite(
                    metric=name,
                    value=str(value),
                    since_step=stretch.since_step,
                    last_finite_step=stretch.last_finite_step,
                    healthy_step=_find_healthy_step(layout, name, stretch.last_finite_step),
                )
            )
    return min(found, key=lambda each: each.since_step or 0, default=None)


def _is_training_loss(name: str) -> bool:
    stream, column = split_name(name)
    return stream == _TRAIN and _LOSS.search(column) is not None


def _find_healthy_step(layout: RunLayout, metric: str, last_finite_step: int | None) -> int | None:
    """Return the newest step whose weights have given a finite value.

    A training step computes its loss with the weights of the step before, so the loss of a step says nothing about that
    step's own weights: its gradient may have been infinite. A validation uses the weights of its step.
    """
    if last_finite_step is None:
        return None
    from relight.checkpoints.store import CheckpointStore

    limit = last_finite_step - (split_name(metric)[0] == _TRAIN)
    steps = (name.step for name in CheckpointStore(layout.checkpoints).manifest_names())
    return max((step for step in steps if step <= limit), default=None)


class _Seen(NamedTuple):
    """How far a file was read, and what was found: it holds while all later records are non-finite, too."""

    inode: int
    records: int
    stretch: _Stretch


_seen: dict[tuple[Path, str], _Seen] = {}
"""By file and column."""


def _find_stretch(folder: Path, name: str) -> _Stretch | None:
    """Find the stretch at the end of the main line; None when the newest value is finite after all."""
    stream, column = split_name(name)
    holding = [file.path for file in scan_metrics(folder, stream=stream).files if column in file.header.columns]
    if not holding:
        return None
    key = (holding[-1], column)
    seen = _seen.get(key)
    try:
        with MetricFile(holding[-1]) as file:
            records = file.count_records()
            inode = file.inode
            if seen is not None and seen.inode == inode and seen.records <= records:
                place = 2 + file.header.columns.index(column)
                new = file.read_bytes(first=seen.records, count=records - seen.records)
                if not any(math.isfinite(row[place]) for row in file.header.record_struct().iter_unpack(new)):
                    _seen[key] = seen._replace(records=records)
                    return seen.stretch
    except (OSError, DamagedFile):
        return None
    from relight.metrics.series import read_series

    stretch = _end_of(read_series(folder, name))
    if len(_seen) >= _REMEMBERED:
        _seen.clear()
    if stretch is not None:
        _seen[key] = _Seen(inode, records, stretch)
    else:
        _seen.pop(key, None)
    return stretch


def _end_of(series: Series) -> _Stretch | None:
    """Find the stretch in a main line. It ends where the newest attempt is: later steps will be trained again."""
    import numpy as np

    if not len(series):
        return None
    newest = series.attempts == series.attempts.max()
    end = int(np.flatnonzero(newest)[-1]) + 1
    finite = np.flatnonzero(np.isfinite(series.values[:end]))
    if not len(finite):
        return _Stretch(int(series.steps[0]), None)
    last = int(finite[-1])
    return _Stretch(int(series.steps[last + 1]), int(series.steps[last])) if last + 1 < end else None
