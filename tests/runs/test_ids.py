"""Ids are safe everywhere, short, and the same for the same token."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.runs.ids import new_run_ids, slug_of


@given(title=st.text(max_size=300), token=st.none() | st.text(max_size=50))
def test_any_title_gives_ids_that_need_no_quoting_anywhere(title: str, token: str | None) -> None:
    for run_id in new_run_ids(title, token=token):
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}-[a-z2-7]{4,6}", run_id)


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("digits", "digits"),
        ("Spiral.py:Spiral", "spiral-py-spiral"),
        ("a 0'; echo x", "a-0-echo-x"),
        ("Größe", "groe"),
        ("模型", "run"),
        ("", "run"),
        ("../../etc", "etc"),
        ("-rf", "rf"),
        ("x" * 100, "x" * 40),
    ],
)
def test_a_slug_keeps_what_is_safe(title: str, slug: str) -> None:
    assert slug_of(title) == slug


def test_a_token_always_gives_the_same_ids_and_chance_never_does() -> None:
    assert list(new_run_ids("digits", token="t")) == list(new_run_ids("digits", token="t"))
    assert list(new_run_ids("digits", token="t")) != list(new_run_ids("digits", token="u"))
    assert len({next(new_run_ids("digits")) for _ in range(50)}) > 45
    assert len(set(new_run_ids("digits", token="t"))) == len(list(new_run_ids("digits", token="t")))
