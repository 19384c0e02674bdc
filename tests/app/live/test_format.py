"""The browser words numbers as Python does."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

import relight_app.live
from relight.wording import describe_bytes, describe_duration, describe_rate
from relight_app.formats import describe_metric

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("live")]

_MODULE = Path(relight_app.live.__file__).with_name("browser") / "format.js"
_FUNCTIONS = ("formatNumber", "formatInteger", "formatDuration", "formatBytes", "formatRate", "formatWithUnit")
many = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """An empty page that has the functions of format.js."""
    page = browser.new_page()
    source = _MODULE.read_text(encoding="utf-8").replace("export function", "function")
    page.add_script_tag(content=f"{source}\nwindow.formats = {{ {', '.join(_FUNCTIONS)} }}")
    yield page
    page.close()


def _format(page: Page, name: str, values: list[float], *rest: Any) -> list[str]:
    said: list[str] = page.evaluate(
        "([name, values, rest]) => values.map((value) => window.formats[name](value, ...rest))", [name, values, rest]
    )
    return said


def _numbers(low: float, high: float) -> st.SearchStrategy[list[float]]:
    """Lists of numbers of every size between two positive ones, round ones among them."""
    exponents = st.floats(0, 1).map(lambda share: low * (high / low) ** share)
    rounded = st.tuples(exponents, st.integers(1, 4)).map(lambda pair: float(f"{pair[0]:.{pair[1]}g}"))
    return st.lists(exponents | rounded, max_size=50)


def _is_tie(value: float, digits: int) -> bool:
    """Return whether the value lies exactly between two numbers of that many digits: JavaScript rounds such ones up."""
    exact = Decimal(value)
    scaled = exact.scaleb(digits - 1 - exact.adjusted()) if exact else exact
    return scaled % 1 == Decimal("0.5")


@many
@given(_numbers(1, 9e17))
@example([530e6, 140e9, 1e3, 999_499.0, 999_500.0, 100e6, 20e12, 1.0, 999.0, 1000.0, 7e15])
def test_bytes(page: Page, values: list[float]) -> None:
    values = [value for value in map(float, map(int, values)) if not any(_is_tie(value, digits) for digits in (2, 3))]
    assert _format(page, "formatBytes", values) == [describe_bytes(value) for value in values]


@many
@given(_numbers(1e-3, 1e8))
@example([0.0, 9.94, 9.96, 59.4, 59.6, 60.0, 180.0, 3599.7, 3600.0, 7200.0, 86_400.0, 90_000.0, 200.0])
def test_durations(page: Page, values: list[float]) -> None:
    values = [value for value in values if value % 1 != 0.5 and (value >= 10 or value * 20 % 2 != 1)]
    assert _format(page, "formatDuration", values) == [describe_duration(value) for value in values]


@many
@given(_numbers(1e-6, 1e7))
@example([0.99, 1.0, 142.0, 999.4, 999.6, 1234.6, 100.0, 20.0])
def test_rates(page: Page, values: list[float]) -> None:
    values = [value for value in values if not _is_tie(value, 3) and value * 2 % 1 != 1]
    values = [value for value in values if value >= 1 or not _is_close_to_tie(1 / value)]
    assert _format(page, "formatRate", values) == [describe_rate(value) for value in values]


def _is_close_to_tie(seconds: float) -> bool:
    return min(abs(seconds * factor % 1 - 0.5) for factor in (1, 10)) < 1e-9


@many
@given(st.lists(st.floats(0, 1), max_size=50))
@example([0.0, 1.0, 0.9996, 0.99996, 0.5, 0.98765])
def test_shares(page: Page, values: list[float]) -> None:
    values = [value for value in values if abs(value * 1e4 % 1 - 0.5) > 1e-9]
    assert _format(page, "formatWithUnit", values, "ratio") == [
        describe_metric("validation/accuracy", value) for value in values
    ]


@many
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=50), _numbers(1e-12, 1e12))
@example([0.0, -0.0, 0.0012345, 999.96, 12_345.0, 123_456.7, 999_999.9, 1e6, -3.14159, 1e-3, 100.0, 530.0], [])
def test_a_value_is_as_near_to_the_truth_as_with_four_digits(
    page: Page, values: list[float], others: list[float]
) -> None:
    values += others
    for value, said in zip(values, _format(page, "formatNumber", values), strict=True):
        # Python writes four digits; the browser at least as many, and a count in full.
        four = float(f"{value:.3e}")
        assert abs(float(said.replace(",", "")) - value) <= abs(four - value) * (1 + 1e-9) + 1e-12 * abs(value), said


@many
@given(st.lists(st.integers(-(2**53), 2**53), max_size=50))
def test_counts(page: Page, values: list[int]) -> None:
    assert _format(page, "formatInteger", [float(value) for value in values]) == [f"{value:,}" for value in values]


@pytest.mark.parametrize(("value", "said"), [("NaN", "NaN"), ("Infinity", "∞"), ("-Infinity", "−∞")])
def test_what_is_not_finite_says_so(page: Page, value: str, said: str) -> None:
    assert page.evaluate(f"() => window.formats.formatNumber({value})") == said
    assert page.evaluate(f"() => window.formats.formatWithUnit({value}, 'B')") == said
    assert describe_metric("train/loss", float(value.replace("Infinity", "inf"))) == said


def test_a_share_that_is_logged_in_percent_is_left_alone(page: Page) -> None:
    assert _format(page, "formatWithUnit", [87.2, 1.0], "ratio") == ["87.20", "100.00 %"]
