"""Whatever a training logs becomes a number: NaN, with one warning per name, if it is not one."""

from __future__ import annotations

import logging
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from relight.training import metric_numbers
from relight.training.metric_numbers import clean_names, is_one_number, to_number


class Broken:
    """An object none of whose texts can be made."""

    def __float__(self) -> float:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.fixture(autouse=True)
def no_warnings_yet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """No name has been warned of before."""
    monkeypatch.setattr(metric_numbers, "_warned", set())
    caplog.set_level(logging.WARNING, logger="relight")


@pytest.mark.parametrize(
    "value",
    [
        0.5, True, np.float64(0.5), np.float16(0.5), np.array(0.5), np.array([[0.5]]), np.bool_(True), np.int8(1),
        Decimal("0.5"), Fraction(1, 2), torch.tensor(0.5), torch.tensor([[0.5]]), torch.tensor(0.5, requires_grad=True),
        torch.tensor(0.5, dtype=torch.bfloat16), torch.tensor(True),
    ],
)  # fmt: skip
def test_every_single_number_is_taken_as_it_is(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert to_number("x", value) in (0.5, 1.0)
    assert caplog.messages == []


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation")
def test_a_quantized_number_is_taken_too(caplog: pytest.LogCaptureFixture) -> None:
    assert to_number("x", torch.quantize_per_tensor(torch.tensor(0.5), 0.5, 0, torch.qint8)) == 0.5
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "The metric 'f1' is None, so it is logged as NaN. Leave it out of the steps in which it has no value"),
        ("n/a", "is 'n/a' (str)"),
        (torch.ones(3), "is a tensor of shape [3], so it is logged as NaN. Pass one number, such as its mean"),
        (torch.ones(0), "is a tensor of shape [0]"),
        (np.ones((2, 2)), "is a ndarray of shape [2, 2]"),
        (torch.ones((), device="meta"), "on the device 'meta'"),
        (1 + 2j, "is (1+2j), a complex number"),
        (np.complex64(1 + 2j), "a complex number"),
        (torch.tensor(1 + 2j), "a complex number"),
        (10**400, "…, which is too large for a float"),
        (10**5000, "is a int, which is too large for a float"),
        (Fraction(10**400), "too large for a float"),
        ([0.5], "is [0.5] (list)"),
        ({"a": 1}, "(dict)"),
        (torch.ones(2).to_sparse(), "is a tensor of shape [2]"),
        (np.datetime64("2026-01-01"), "datetime64"),
        (Broken(), "is a Broken (Broken)"),
        (float, "(type)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_nan_with_one_warning_that_says_what_it_is(
    value: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert math.isnan(to_number("f1", value))
    assert math.isnan(to_number("f1", value))
    (warning,) = caplog.messages
    assert warning.startswith("The metric 'f1' is ")
    assert said in warning
    assert len(warning) < 300


def test_warnings_end_for_a_training_that_makes_up_names(caplog: pytest.LogCaptureFixture) -> None:
    for number in range(500):
        to_number(f"f{number}", None)
    assert 10 < len(caplog.messages) < 200


def test_only_a_real_number_in_ordinary_memory_can_be_added_up_on_the_device() -> None:
    assert is_one_number(torch.ones(1, 1))
    for value in (1.0, None, torch.ones(2), torch.ones((), device="meta"), torch.tensor(1j)):
        assert not is_one_number(value)


def test_names_that_files_cannot_hold_are_changed_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    odd = {"loss": 1, 5: 2, "": 3, "a\nb": 4, "\ud800": 5, "x" * 10_000: 6, ("a", 1): 7, "acc__top5": 8, "a/b": 9}
    cleaned = clean_names(odd)
    assert list(cleaned.values()) == list(range(1, 10))
    assert list(cleaned)[:5] == ["loss", "5", "unnamed", "a�b", "�"]
    assert list(cleaned)[6:] == ["('a', 1)", "acc__top5", "a/b"]
    assert len(list(cleaned)[5]) == 200
    assert len(caplog.messages) == 6
    clean_names(odd)
    assert len(caplog.messages) == 6
