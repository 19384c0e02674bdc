"""Forecasts when the disk of a run will be full, and how much its checkpoints write per day."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise

import msgspec

_DAY_S = 86_400.0
_SHORTEST_S = 60.0
"""A shorter observation gives no reliable rate."""
_FARTHEST_S = 30 * _DAY_S
"""Forecasts beyond this are not reliable and are left out."""
_AGREEMENT = 0.8
"""The share of comparisons, over at least half the observed time, that must show the disk filling up."""


class DiskForecast(msgspec.Struct, frozen=True, kw_only=True):
    """The free space of the run's disk now, and how it develops; None where that is unknown."""

    free_bytes: int
    written_bytes_a_day: float | None = None
    """Bytes per day that this attempt's checkpoints write at their rate so far; this wears a drive out."""
    full_in_s: float | None = None
    """Seconds until the disk is full at this rate, counting all programs; None if that takes more than 30 days."""


def forecast_disk(
    free_space: Sequence[tuple[float, float]], *, written_bytes: int = 0, writing_s: float = 0.0
) -> DiskForecast | None:
    """Forecast from `free_space`: (time in seconds, free bytes), oldest first. Return None without samples.

    Checkpoints have written `written_bytes` in `writing_s` seconds. The rate is the median slope between distant
    samples (Theil 1950, Sen 1968), and every quarter of the time must show it: writing and removing checkpoints gives
    a sawtooth curve, whose teeth must not count, and neither must one large file that is moved.
    """
    if not free_space:
        return None
    _, free_bytes = free_space[-1]
    rate = _measure_filling_rate(free_space)
    full_in_s = free_bytes / rate if rate > 0 else None
    return DiskForecast(
        free_bytes=max(0, int(free_bytes)),
        written_bytes_a_day=written_bytes / writing_s * _DAY_S if written_bytes and writing_s >= _SHORTEST_S else None,
        full_in_s=full_in_s if full_in_s is not None and full_in_s <= _FARTHEST_S else None,
    )


def _measure_filling_rate(free_space: Sequence[tuple[float, float]]) -> float:
    """Return the bytes per second by which free space shrinks; 0 when it does not, or when that is uncertain."""
    span_s = free_space[-1][0] - free_space[0][0]
    if span_s < _SHORTEST_S:
        return 0.0
    # Over a short time a sawtooth shows only its teeth.
    slopes = [
        (free - later_free) / (later_s - time_s)
        for i, (time_s, free) in enumerate(free_space)
        for later_s, later_free in free_space[i + 1 :]
        if later_s - time_s >= span_s / 2
    ]
    if not slopes or sum(slope > 0 for slope in slopes) < _AGREEMENT * len(slopes) or not _shrinks_always(free_space):
        return 0.0
    return statistics.median(slopes)


def _shrinks_always(free_space: Sequence[tuple[float, float]]) -> bool:
    """Tell whether each quarter of the time had less free space than the one before; one large file is not a trend."""
    quarter = len(free_space) // 4
    if quarter == 0:
        return False
    medians = [statistics.median(free for _, free in free_space[i * quarter : (i + 1) * quarter]) for i in range(4)]
    return all(later < earlier for earlier, later in pairwise(medians))
