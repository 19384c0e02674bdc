"""What can be told of a disk's future, and what cannot."""

from __future__ import annotations

import pytest

from relight.overview.disk_forecast import forecast_disk

GB = 1e9
HOUR = 3600.0


def watch(seconds: float, free_at: object, *, samples: int = 60) -> list[tuple[float, float]]:
    times = [1.7e9 + i * seconds / (samples - 1) for i in range(samples)]
    return [(at, free_at(at - 1.7e9)) for at in times]  # type: ignore[operator]


def test_a_disk_that_fills_steadily_is_full_when_its_pace_says() -> None:
    forecast = forecast_disk(watch(HOUR, lambda at: 10 * GB - at * 1e6))
    assert forecast is not None
    assert forecast.free_bytes == int(10 * GB - HOUR * 1e6)
    assert forecast.full_in_s == pytest.approx((10 * GB - HOUR * 1e6) / 1e6, rel=0.01)


def test_checkpoints_that_come_and_go_fill_nothing() -> None:
    saw = watch(HOUR, lambda at: 10 * GB - (at % 300) * 1e7)
    forecast = forecast_disk(saw)
    assert forecast is not None
    assert forecast.full_in_s is None


def test_a_trend_under_the_saw_is_seen() -> None:
    forecast = forecast_disk(watch(HOUR, lambda at: 100 * GB - (at % 300) * 1e7 - at * 1e7))
    assert forecast is not None
    assert forecast.full_in_s == pytest.approx((100 * GB - HOUR * 1e7) / 1e7, rel=0.1)


def test_a_file_that_somebody_moves_once_is_no_pace() -> None:
    for moment in (300.0, 1000.0, 1800.0, 2600.0, 3300.0):
        moved = forecast_disk(watch(HOUR, lambda at, moment=moment: 50 * GB if at < moment else 20 * GB))
        assert moved is not None
        assert moved.full_in_s is None


@pytest.mark.parametrize("free_at", [lambda at: 5 * GB, lambda at: 5 * GB + at * 1e6, lambda at: 5 * GB - at])
def test_a_disk_that_does_not_fill_up_or_in_a_year_is_not_spoken_of(free_at: object) -> None:
    forecast = forecast_disk(watch(HOUR, free_at))
    assert forecast is not None
    assert forecast.full_in_s is None


def test_a_few_seconds_are_no_pace() -> None:
    forecast = forecast_disk(watch(20, lambda at: 1 * GB - at * 1e7), written_bytes=1000, writing_s=20)
    assert forecast is not None
    assert (forecast.full_in_s, forecast.written_bytes_a_day) == (None, None)
    assert forecast_disk([(1.7e9, GB)]) is not None
    assert forecast_disk([]) is None


def test_a_full_disk_is_full_now() -> None:
    forecast = forecast_disk(watch(HOUR, lambda at: max(0.0, 3 * GB - at * 1e6)))
    assert forecast is not None
    assert (forecast.free_bytes, forecast.full_in_s) == (0, 0.0)


def test_bytes_written_are_told_for_a_day() -> None:
    forecast = forecast_disk(watch(HOUR, lambda at: GB), written_bytes=1_000_000, writing_s=600)
    assert forecast is not None
    assert forecast.written_bytes_a_day == pytest.approx(144_000_000)
