"""Names of metrics are printable and short, and two different ones stay different."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relight.metrics.file_format import MetricHeader, decode_header, encode_header
from relight.metrics.metric_names import LONGEST_NAME, clean_name


@given(st.text(st.characters(), max_size=400) | st.integers() | st.none() | st.binary())
def test_every_name_fits_into_a_metric_file(name: object) -> None:
    cleaned = clean_name(name)
    assert 0 < len(cleaned) <= LONGEST_NAME
    assert clean_name(cleaned) == cleaned
    header = MetricHeader("train", 1, (cleaned,))
    assert decode_header(encode_header(header))[0] == header


@given(st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=LONGEST_NAME))
def test_an_ordinary_name_stays_as_it_is(name: str) -> None:
    assert clean_name(name) == name


def test_long_names_that_begin_alike_stay_different() -> None:
    assert clean_name("x" * 1000 + "a") != clean_name("x" * 1000 + "b")
