"""Medians with their spread, and how numbers are shown."""

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
        """The same measurements in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.count)

    def show(self, digits: int = 2) -> str:
        """ "1.23 (1.10 to 1.40)"."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of `values`, of which there is one at least."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


def pair(ours: Sequence[float], theirs: Sequence[float], *, difference: bool = False) -> Spread:
    """Spread of the ratios (or differences) of measurements that were taken one right after the other."""
    both = zip(ours, theirs, strict=True)
    return spread([own - other if difference else own / other for own, other in both])
