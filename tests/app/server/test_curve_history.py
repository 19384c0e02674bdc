"""Thinned curves keep their spikes, their gaps, and every step of a zoomed range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relight.metrics.series import Series
from relight_app.server.curve_history import Line, make_curve, smooth_values, thin


def _series(
    values: list[float], *, steps: list[int] | None = None, attempts: list[int] | None = None, name: str = "train/loss"
) -> Series:
    count = len(values)
    return Series(
        name,
        np.array(steps or range(1, count + 1), dtype=np.int64),
        np.arange(count, dtype=np.float64) + 100.0,
        np.array(values, dtype=np.float64),
        np.array(attempts or [1] * count, dtype=np.int64),
    )


def test_a_short_curve_is_whole() -> None:
    curve = make_curve(_series([3.0, 2.0, 1.0]))
    assert curve.main.x.tolist() == [1, 2, 3] and curve.main.y.tolist() == [3, 2, 1]
    assert not curve.thinned and curve.total == 3


def test_a_long_curve_keeps_its_spikes_and_its_ends() -> None:
    values = [1.0] * 200_000
    values[123_456], values[7] = 50.0, -50.0
    curve = make_curve(_series(values), points=1000)
    assert curve.thinned and 500 < len(curve.main.x) <= 1000
    assert curve.main.y.max() == 50.0 and curve.main.y.min() == -50.0
    assert curve.main.x[0] == 1 and curve.main.x[-1] == 200_000


def test_a_long_curve_keeps_its_gaps() -> None:
    values = [float(step % 10) for step in range(50_000)]
    values[20_000:20_100] = [math.nan] * 100
    values[40_000] = math.inf
    curve = make_curve(_series(values), points=1000)
    gaps = curve.main.x[np.isnan(curve.main.y)]
    assert len(gaps) == 2
    assert 20_000 <= gaps[0] <= 20_101 and 39_900 <= gaps[1] <= 40_100
    assert np.all(np.diff(curve.main.x) > 0)


def test_within_a_window_the_curve_is_finer() -> None:
    line = Line(np.arange(100_000.0), np.sin(np.arange(100_000.0)))
    whole, near = thin(line, points=1000), thin(line, points=1000, window=(50_000, 50_500))
    inside = near.x[(near.x >= 50_000) & (near.x <= 50_500)]
    assert inside.tolist() == list(range(50_000, 50_501))
    assert near.x[0] == 0 and near.x[-1] == 99_999
    assert len(near.x) < 2 * len(whole.x)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan), st.just(math.inf)), max_size=400),
    points=st.integers(16, 60),
    window=st.none() | st.tuples(st.integers(-10, 420), st.integers(-10, 420)).map(sorted).map(tuple),
)
def test_any_curve_is_thinned_in_order_and_from_its_own_values(
    values: list[float], points: int, window: tuple[float, float] | None
) -> None:
    curve = make_curve(_series(values), points=points, window=window, smoothing=0.8)
    assert np.all(np.diff(curve.main.x) > 0)
    finite = np.isfinite(curve.main.y)
    assert set(curve.main.y[finite]) <= {value for value in values if math.isfinite(value)}
    assert not np.any(np.isinf(curve.main.y))


def test_by_step_each_step_counts_once_and_superseded_steps_are_the_ghost() -> None:
    series = _series([1, 2, 3, 4, 30, 40, 50], steps=[1, 2, 3, 4, 3, 4, 5], attempts=[1, 1, 1, 1, 2, 2, 2])
    curve = make_curve(series)
    assert list(zip(curve.main.x, curve.main.y, strict=True)) == [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]
    ghosts = curve.ghosts
    assert ghosts.x[:2].tolist() == [3, 4] and ghosts.y[:2].tolist() == [3, 4] and math.isnan(ghosts.y[-1])


def test_by_time_every_sample_of_the_machine_counts() -> None:
    curve = make_curve(_series([1, 2, 3], steps=[7, 7, 7], name="system/cpu_percent"), axis="time")
    assert curve.main.x.tolist() == [100_000, 101_000, 102_000] and len(curve.ghosts.x) == 0


def test_by_time_the_line_breaks_between_attempts_and_superseded_steps_are_the_ghost() -> None:
    series = _series([1, 2, 3, 30, 40], steps=[1, 2, 3, 3, 4], attempts=[1, 1, 1, 2, 2])
    curve = make_curve(series, axis="time")
    assert curve.main.x.tolist() == [100_000, 101_000, 102_000, 103_000, 104_000]
    np.testing.assert_array_equal(curve.main.y, [1, 2, math.nan, 30, 40])
    np.testing.assert_array_equal(curve.ghosts.y, [3, math.nan])


def test_on_a_logarithmic_axis_the_first_steps_are_as_fine_as_the_last() -> None:
    series = _series([1 / step for step in range(1, 100_001)])
    curve, plain = (make_curve(series, points=1000, log_x=log_x) for log_x in (True, False))
    assert np.count_nonzero(curve.main.x <= 100) > 4 * np.count_nonzero(plain.main.x <= 100)
    assert set(curve.main.x) <= set(range(1, 100_001)) and np.all(np.diff(curve.main.x) > 0)


def test_smoothing_weighs_as_tensorboard_does_and_grows_with_the_length() -> None:
    values = [float(step % 2) for step in range(1, 401)]
    short = make_curve(_series(values), smoothing=0.9).smoothing
    assert short is not None and short.decay == 0.9
    long = make_curve(_series(values * 100), smoothing=0.9).smoothing
    assert long is not None and 0.998 < long.decay < 1
    assert make_curve(_series(values), smoothing=0.0).smoothing is None


def _smooth_slowly(values: list[float], decay: float) -> tuple[list[float], float, float]:
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        if math.isfinite(value):
            total, weight = total * decay + value, weight * decay + 1
        smoothed.append(total / weight if math.isfinite(value) else math.nan)
    return smoothed, total, weight


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999, 0.99999])
def test_the_moving_average_equals_the_plain_recurrence(decay: float) -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=30_000)
    values[[0, 5, 4095, 4096, 17_000]] = math.nan
    smoothed, total, weight = smooth_values(values, decay=decay)
    slow, slow_total, slow_weight = _smooth_slowly(values.tolist(), decay)
    np.testing.assert_allclose(smoothed, slow, rtol=1e-8, atol=1e-9)
    assert math.isclose(total, slow_total, rel_tol=1e-8, abs_tol=1e-8) and math.isclose(
        weight, slow_weight, rel_tol=1e-9
    )
