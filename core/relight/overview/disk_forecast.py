"""How long the disk of a run still lasts at the pace at which it has been filling up, and what saving writes a day."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise

import msgspec

_DAY_S = 86_400.0
_SHORTEST_S = 60.0
"""A shorter observation gives no reliable rate."""
_FARTHEST_S = 30 * _DAY_S
"""What lies farther away than this nobody can tell."""
_AGREEMENT = 0.8
"""The share of comparisons over half the time or more that must show the disk filling up."""


class DiskForecast(msgspec.Struct, frozen=True, kw_only=True):
    """`free_bytes` of the run's disk now; None for what cannot be told."""

    free_bytes: int
    written_bytes_a_day: float | None = None
    """What this attempt's checkpoints write to the disk a day, as they have so far; a drive wears out by it."""
    full_in_s: float | None = None
    """Seconds until the disk is full at this rate, counting all programs; None if that takes more than 30 days."""


def forecast_disk(
    free_space: Sequence[tuple[float, float]], *, written_bytes: int = 0, writing_s: float = 0.0
) -> DiskForecast | None:
    """Forecast from `free_space`, (time in seconds, free bytes) oldest first; None without any sample.

    `written_bytes` have been written by checkpoints in `writing_s` seconds. The pace is the median of the slopes
    between distant samples (Theil 1950, Sen 1968), and every quarter of the time must show it: checkpoints that are
    written and old ones that are removed make a saw, and its teeth must not count, nor one large file that moves.
    """
    if not free_space:
        return None
    _, free_bytes = free_space[-1]
    pace = _filling_pace(free_space)
    full_in_s = free_bytes / pace if pace > 0 else None
    return DiskForecast(
        free_bytes=max(0, int(free_bytes)),
        written_bytes_a_day=written_bytes / writing_s * _DAY_S if written_bytes and writing_s >= _SHORTEST_S else None,
        full_in_s=full_in_s if full_in_s is not None and full_in_s <= _FARTHEST_S else None,
    )


def _filling_pace(free_space: Sequence[tuple[float, float]]) -> float:
    """Bytes a second by which free space shrinks; 0 when it does not, or when that is not certain."""
    span_s = free_space[-1][0] - free_space[0][0]
    if span_s < _SHORTEST_S:
        return 0.0
    # Over short times a saw shows nothing but its teeth.
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
