"""Curves as the browser draws them: a million points in a few that look the same, spikes and gaps included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from relight.metrics.series import Series, split_series

Axis = Literal["step", "time"]
Floats = NDArray[np.float64]

_OUTSIDE_SHARE = 8
"""What lies outside of a zoomed range gets this fraction of the points on each side."""
_SMOOTHED_SHARE = 150
"""A smoothed value looks back over about this fraction of the whole curve."""
_FEWEST = 16


@dataclass(frozen=True)
class Line:
    """Points of a line; y is NaN where it breaks."""

    x: Floats
    y: Floats


_EMPTY = Line(np.empty(0), np.empty(0))


@dataclass(frozen=True)
class Smoothing:
    """A moving average and how to go on with it: sum = sum * decay + value, weight = weight * decay + 1."""

    line: Line
    decay: float
    sum: float
    weight: float


@dataclass(frozen=True)
class Curve:
    """One metric: the main line, what was trained again, and the moving average if it was asked for."""

    name: str
    main: Line
    ghosts: Line = _EMPTY
    smoothing: Smoothing | None = None
    total: int = 0
    """Rows behind the main line."""
    thinned: bool = False
    """Whether the main line has fewer points than rows."""


def make_curve(
    samples: Series,
    *,
    axis: Axis = "step",
    points: int = 1500,
    window: tuple[float, float] | None = None,
    smooth: bool = False,
) -> Curve:
    """The curve of one metric, from its records as they were logged, in about `points` points, finer within `window`.

    By step each step counts once, and what a later attempt trained again is the ghost. By time (milliseconds since
    1970) every record counts: the machine is sampled many times during a long step.
    """
    ghosts = _EMPTY
    if axis == "time":
        order = np.argsort(samples.times, kind="stable")
        x, values = samples.times[order] * 1000.0, samples.values[order]
    else:
        split = split_series(samples)
        x, values = split.main.steps.astype(np.float64), split.main.values
        ghosts = _join([Line(ghost.steps.astype(np.float64), ghost.values) for ghost in split.ghosts], points=points)
    y = np.where(np.isfinite(values), values, np.nan)
    smoothing = None
    if smooth and len(y):
        decay = 0.5 ** (1.0 / max(2.0, len(y) / _SMOOTHED_SHARE))
        smoothed, total, weight = smooth_values(y, decay=decay)
        smoothing = Smoothing(thin(Line(x, smoothed), points=points, window=window), decay, total, weight)
    main = thin(Line(x, y), points=points, window=window)
    return Curve(samples.name, main, ghosts, smoothing, total=len(x), thinned=len(main.x) < len(x))


def thin(line: Line, *, points: int, window: tuple[float, float] | None = None) -> Line:
    """About `points` of the line's points, chosen so that its spikes stay; within `window` finer than elsewhere."""
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
    """MinMaxLTTB over the finite values; a break in the line stays a break."""
    if len(line.x) <= max(points, _FEWEST):
        return line
    from tsdownsample import MinMaxLTTBDownsampler

    finite = np.flatnonzero(np.isfinite(line.y))
    if len(finite) <= 2:
        return Line(line.x[finite], line.y[finite])
    x, y = np.ascontiguousarray(line.x[finite]), np.ascontiguousarray(line.y[finite])
    if len(finite) > points:
        sampler = MinMaxLTTBDownsampler()  # type: ignore[no-untyped-call]
        chosen = sampler.downsample(x, y, n_out=max(points, _FEWEST)).astype(np.int64)
    else:
        chosen = np.arange(len(finite))
    places = finite[chosen]
    # A break lies between two chosen points when a row between them is not finite.
    broken = np.cumsum(~np.isfinite(line.y))
    breaks = np.flatnonzero(np.diff(broken[places]) > 0)
    after = breaks + 1
    middle = (line.x[places[breaks]] + line.x[places[after]]) / 2
    return Line(np.insert(line.x[places], after, middle), np.insert(line.y[places], after, np.nan))


def smooth_values(values: Floats, *, decay: float) -> tuple[Floats, float, float]:
    """The exponential moving average, unbiased at its start, with its sum and weight at the end. NaN is passed over.

    s_t = sum of decay^(t - i) v_i / sum of decay^(t - i), over the finite v_i up to t: computed in blocks that are
    short enough for decay^-i to stay far from overflow.
    """
    smoothed = np.empty_like(values)
    block = max(1, min(4096, int(400 / -math.log(decay)))) if decay < 1 else 4096
    total = weight = 0.0
    for begin in range(0, len(values), block):
        part = values[begin : begin + block]
        finite = np.isfinite(part)
        # By how many finite values each one is behind the first of the block.
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
    """Several lines as one, with breaks between them."""
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return _EMPTY
    share = max(_FEWEST, points // len(lines))
    parts: list[Line] = []
    for line in lines:
        thinned = _thin(Line(line.x, np.where(np.isfinite(line.y), line.y, np.nan)), share)
        parts += [thinned, Line(np.array([thinned.x[-1]]), np.array([np.nan]))]
    return Line(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))
