"""Curves as the browser draws them: a million rows in a few points that look the same, with spikes and gaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from relight.metrics.series import Series, SplitSeries, split_series

Axis = Literal["step", "time"]
Floats = NDArray[np.float64]

_OUTSIDE_SHARE = 8
"""Each side outside a zoomed range gets 1 / this of the points."""
_SMOOTHED_ROWS = 500
"""A longer curve is smoothed as if it had this many rows."""
_FEWEST = 16
_MACHINE = "system/"


@dataclass(frozen=True)
class Line:
    """Points of a line; y is NaN where it breaks."""

    x: Floats
    y: Floats


_EMPTY = Line(np.empty(0), np.empty(0))


@dataclass(frozen=True)
class Smoothing:
    """A moving average, and the state to continue it: sum = sum * decay + value, weight = weight * decay + 1."""

    line: Line
    decay: float
    sum: float
    weight: float


@dataclass(frozen=True)
class Curve:
    """One metric: the main line, the ghosts, and the moving average of a smooth curve."""

    name: str
    main: Line
    ghosts: Line = _EMPTY
    smoothing: Smoothing | None = None
    total: int = 0
    """How many rows the main line stands for."""
    thinned: bool = False
    """Whether the main line has fewer points than rows."""


def make_curve(
    samples: Series,
    *,
    axis: Axis = "step",
    points: int = 1500,
    window: tuple[float, float] | None = None,
    smoothing: float = 0.0,
    log_x: bool = False,
) -> Curve:
    """Make the curve of one metric from its logged records: about `points` points, most of them within `window`.

    Each step counts once, and what a later attempt trained again is the ghost. On the time axis (milliseconds since
    1970) the line breaks between two attempts, and every record of the "system" stream counts, because the machine is
    sampled many times during a long step. `smoothing` (0 to 1) is the weight of the moving average, as in TensorBoard;
    a long curve is smoothed as much as a short one that looks the same. `log_x` thins for a logarithmic axis.
    """
    split = (
        split_series(samples) if axis == "step" or not samples.name.startswith(_MACHINE) else SplitSeries(samples, ())
    )
    breaks: NDArray[np.intp] = np.empty(0, dtype=np.intp)
    if axis == "time":
        main = split.main.select(np.argsort(split.main.times, kind="stable"))
        x, ghosts = main.times * 1000.0, [Line(ghost.times * 1000.0, ghost.values) for ghost in split.ghosts]
        breaks = np.flatnonzero(main.attempts[1:] != main.attempts[:-1]) + 1
    else:
        main = split.main
        x, ghosts = _as_floats(main.steps), [Line(_as_floats(ghost.steps), ghost.values) for ghost in split.ghosts]
    y = _without_infinity(main.values)
    smoothed = None
    if smoothing > 0 and len(y):
        decay = max(smoothing, smoothing ** (_SMOOTHED_ROWS / len(y)))
        average, total, weight = smooth_values(y, decay=decay)
        line = _break(Line(x, average), breaks)
        smoothed = Smoothing(thin(line, points=points, window=window, log_x=log_x), decay, total, weight)
    line = _break(Line(x, y), breaks)
    thinned = thin(line, points=points, window=window, log_x=log_x)
    return Curve(
        samples.name,
        thinned,
        _join(ghosts, points=points),
        smoothed,
        total=len(line.x),
        thinned=len(thinned.x) < len(line.x),
    )


def _without_infinity(values: Floats) -> Floats:
    """Replace infinite values by NaN."""
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, np.nan)


def _as_floats(steps: NDArray[np.int64]) -> Floats:
    return steps.astype(np.float64)


def _break(line: Line, places: NDArray[np.intp]) -> Line:
    """Break the line before the points at these places."""
    if not len(places):
        return line
    middle = (line.x[places - 1] + line.x[places]) / 2
    return Line(np.insert(line.x, places, middle), np.insert(line.y, places, np.nan))


def thin(line: Line, *, points: int, window: tuple[float, float] | None = None, log_x: bool = False) -> Line:
    """Choose about `points` of the line's points, keep its spikes, and choose more of them within `window`.

    With `log_x`, choose them evenly on a logarithmic axis, which shows none of the points at 0 and below.
    """
    if log_x and len(line.x) > points:
        shown = line.x > 0
        even = thin(
            Line(np.log10(line.x[shown]), line.y[shown]),
            points=points,
            window=None if window is None else (math.log10(max(window[0], 1e-9)), math.log10(max(window[1], 1e-9))),
        )
        return Line(np.round(10**even.x, 3), even.y)
    if window is None or len(line.x) <= points:
        return _thin(line, points)
    begin = max(0, int(np.searchsorted(line.x, window[0], "left")) - 1)
    end = min(len(line.x), int(np.searchsorted(line.x, window[1], "right")) + 1)
    outside = points // _OUTSIDE_SHARE
    parts = [
        _thin(Line(line.x[:begin], line.y[:begin]), outside),
        _thin(Line(line.x[begin:end], line.y[begin:end]), points),
        _thin(Line(line.x[end:], line.y[end:]), outside),
    ]
    return Line(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


def _thin(line: Line, points: int) -> Line:
    """Thin the finite values with MinMaxLTTB, and keep the breaks of the line."""
    if len(line.x) <= max(points, _FEWEST):
        return line
    known = np.isfinite(line.y)
    if known.all():
        chosen = _choose(line.x, line.y, points)
        return Line(line.x[chosen], line.y[chosen])
    finite = np.flatnonzero(known)
    if len(finite) <= 2:
        return Line(line.x[finite], line.y[finite])
    places = finite[_choose(line.x[finite], line.y[finite], points)] if len(finite) > points else finite
    # The line breaks between two chosen points when a row between them is not finite.
    broken = np.cumsum(~known)
    breaks = np.flatnonzero(np.diff(broken[places]) > 0)
    after = breaks + 1
    middle = (line.x[places[breaks]] + line.x[places[after]]) / 2
    return Line(np.insert(line.x[places], after, middle), np.insert(line.y[places], after, np.nan))


def _choose(x: Floats, y: Floats, points: int) -> NDArray[np.int64]:
    from tsdownsample import MinMaxLTTBDownsampler

    sampler = MinMaxLTTBDownsampler()  # type: ignore[no-untyped-call]
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    return np.asarray(sampler.downsample(x, y, n_out=max(points, _FEWEST)), dtype=np.int64)


def smooth_values(values: Floats, *, decay: float) -> tuple[Floats, float, float]:
    """Return the exponential moving average, unbiased at its start, and its last sum and weight. Skips NaN.

    s_t = sum of decay^(t - i) v_i / sum of decay^(t - i), over the finite v_i up to t. Computed in blocks that are
    short enough to keep decay^-i far from overflow.
    """
    smoothed = np.empty_like(values)
    block = max(1, min(4096, int(400 / -math.log(decay)))) if decay < 1 else 4096
    total = weight = 0.0
    ages = np.arange(1, block + 1)
    all_falling, all_rising = decay**ages, decay ** -ages.astype(np.float64)
    all_risen = np.cumsum(all_rising)
    for begin in range(0, len(values), block):
        part = values[begin : begin + block]
        finite = np.isfinite(part)
        if finite.all():
            falling, count = all_falling[: len(part)], len(part)
            totals = falling * (total + np.cumsum(part * all_rising[:count]))
            weights = falling * (weight + all_risen[:count])
            smoothed[begin : begin + block] = totals / weights
            total, weight = float(totals[-1]), float(weights[-1])
            continue
        # How many finite values of the block precede each value, itself included.
        age = np.cumsum(finite)
        falling = decay**age
        rising = np.where(finite, decay ** -age.astype(np.float64), 0.0)
        totals = falling * (total + np.cumsum(np.where(finite, part, 0.0) * rising))
        weights = falling * (weight + np.cumsum(rising))
        with np.errstate(invalid="ignore", divide="ignore"):
            smoothed[begin : begin + block] = np.where(finite, totals / weights, np.nan)
        total, weight = float(totals[-1]), float(weights[-1])
    return smoothed, total, weight


def _join(lines: Sequence[Line], *, points: int) -> Line:
    """Join lines into one, with breaks between them."""
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return _EMPTY
    share = max(_FEWEST, points // len(lines))
    parts: list[Line] = []
    for line in lines:
        thinned = _thin(Line(line.x, np.where(np.isfinite(line.y), line.y, np.nan)), share)
        parts += [thinned, Line(np.array([thinned.x[-1]]), np.array([np.nan]))]
    return Line(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))
