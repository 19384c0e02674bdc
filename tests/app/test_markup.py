"""Markup: nothing that comes from a run folder can become HTML."""

from __future__ import annotations

import html
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from relight_app.markup import Markup, join, tag

HOSTILE = "\"><img src=x onerror=alert(1)><script>x</script>&'"


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_is_escaped_wherever_it_stands() -> None:
    reader = _Reader()
    reader.feed(tag("a", HOSTILE, title=HOSTILE, data_value=HOSTILE))
    assert reader.tags == ["a"]
    assert reader.text == HOSTILE
    assert dict(reader.attributes) == {"title": HOSTILE, "data-value": HOSTILE}


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_text_reads_back_as_itself(text: str) -> None:
    assert html.unescape(tag("p", text)) == f"<p>{text}</p>"


def test_markup_and_nested_lists_are_spliced_and_nothing_is_left_out_but_none_and_false() -> None:
    inner = tag("b", "x")
    assert tag("p", [inner, ["y", None]], False, 0) == "<p><b>x</b>y0</p>"
    assert join("a", inner, separator=" · ") == "a · <b>x</b>"


def test_attributes_true_stand_bare_and_false_and_none_are_left_out() -> None:
    assert tag("details", open=True, hidden=False, id=None, class_="c") == '<details open class="c"></details>'
    assert tag("input", value=1) == '<input value="1">'


def test_a_part_of_markup_is_no_markup_any_more() -> None:
    part = Markup("<b>bold</b>")[:3]
    assert not isinstance(part, Markup)
    assert tag("p", part) == "<p>&lt;b&gt;</p>"
