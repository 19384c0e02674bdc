"""Medians with their quartiles, and how they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float
    count: int

    def scaled(self, factor: float) -> Spread:
        """Return the same measurements in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.count)

    def show(self, digits: int = 2) -> str:
        """Return the median with its quartiles, such as "1.23 (1.10 to 1.40)"."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Return the median and quartiles of one or more values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


def pair(ours: Sequence[float], theirs: Sequence[float], *, difference: bool = False) -> Spread:
    """Return the spread of the ratios (or differences) between measurements that were taken right after each other."""
    both = zip(ours, theirs, strict=True)
    return spread([own - other if difference else own / other for own, other in both])
