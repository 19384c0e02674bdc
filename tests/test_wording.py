"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from relight.wording import count, describe_age, describe_bytes, describe_duration, describe_rate, describe_value


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (math.inf, "-"),
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (-1, "0.0 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3_600, "1 h"),
        (7_500, "2 h 5 min"),
        (3 * 86_400 + 4 * 3_600 + 59, "3 d 4 h"),
    ],
)
def test_durations_have_at_most_two_units(seconds: float | None, text: str) -> None:
    assert describe_duration(seconds) == text


@pytest.mark.parametrize(
    ("ago_s", "text"),
    [
        (0, "just now"),
        (-50, "just now"),
        (12, "12 s ago"),
        (119, "1 min ago"),
        (7_300, "2 h ago"),
        (200_000, "2 d ago"),
    ],
)
def test_ages_have_one_unit(ago_s: float, text: str) -> None:
    assert describe_age(1_000_000.0 - ago_s, now_s=1_000_000.0) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1_000, "1 kB"),
        (4_184_000, "4.18 MB"),
        (999_700_000, "1 GB"),
        (1.5e9, "1.5 GB"),
        (5e15, "5 PB"),
    ],
)
def test_sizes_have_three_digits(size: float, text: str) -> None:
    assert describe_bytes(size) == text


def test_values_have_four_digits_and_say_nan() -> None:
    assert [describe_value(v) for v in (None, 0.98764, 1.2e-5, math.nan)] == ["-", "0.9876", "1.2e-05", "nan"]


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, ""),
        (math.nan, ""),
        (0.31, "3.2 s/step"),
        (3.217, "3.22 steps/s"),
        (142.4, "142 steps/s"),
        (16_400, "16,400 steps/s"),
    ],
)
def test_slow_rates_are_told_as_seconds_a_step(rate: float, text: str) -> None:
    assert describe_rate(rate) == text


def test_counts_agree_with_their_noun() -> None:
    assert [count(n, "step") for n in (0, 1, 12_000)] == ["0 steps", "1 step", "12,000 steps"]
