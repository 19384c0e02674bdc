"""The format of numbers and names."""

from __future__ import annotations

import math

import pytest

from relight_app.formats import (
    describe_metric,
    describe_option,
    describe_risk,
    is_share,
    short_metric,
    title_metric,
)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("validation/accuracy", 0.98765, "98.77 %"),
        ("validation/top5_accuracy", 1.0, "100.00 %"),
        ("validation/accuracy", 87.2, "87.2"),  # already in percent, not a fraction of 1
        ("validation/loss", 0.0123456, "0.01235"),
        ("train/loss", math.nan, "NaN"),
        ("train/loss", math.inf, "∞"),
        ("train/loss", -math.inf, "−∞"),
    ],
)
def test_metrics_are_formatted_as_people_read_them(name: str, value: float, said: str) -> None:
    assert describe_metric(name, value) == said


@pytest.mark.parametrize(
    ("name", "title", "short"),
    [
        ("validation/accuracy", "Validation accuracy", "accuracy"),
        ("train/lr", "Learning rate", "lr"),
        ("loss", "Loss", "loss"),
        ("train/grad_norm", "Train grad norm", "grad_norm"),
    ],
)
def test_metric_names_become_headings(name: str, title: str, short: str) -> None:
    assert (title_metric(name), short_metric(name)) == (title, short)


def test_only_shares_are_percentages() -> None:
    assert is_share("validation/f1")
    assert not is_share("validation/accuracy_loss")


@pytest.mark.parametrize(
    ("seconds", "steps", "said"),
    [(12.0, 40, "12 s, 40 steps"), (0.0, 1, "1 step"), (9.0, 0, "nothing")],
)
def test_work_at_risk_is_given_in_seconds_and_steps(seconds: float, steps: int, said: str) -> None:
    assert describe_risk(seconds, steps) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(True, "true"), (None, "none"), ("", "none"), (0.5, "0.5"), (0.1 + 0.2, "0.30000000000000004"), (3, "3")],
)
def test_options_are_written_as_the_command_line_takes_them(value: object, said: str) -> None:
    assert describe_option(value) == said
