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


def test_text_is_escaped_everywhere() -> None:
    reader = _Reader()
    reader.feed(tag("a", HOSTILE, title=HOSTILE, data_value=HOSTILE))
    assert reader.tags == ["a"]
    assert reader.text == HOSTILE
    assert dict(reader.attributes) == {"title": HOSTILE, "data-value": HOSTILE}


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_text_reads_back_as_itself(text: str) -> None:
    assert html.unescape(tag("p", text)) == f"<p>{text}</p>"


def test_markup_and_nested_lists_are_flattened_and_only_none_and_false_are_skipped() -> None:
    inner = tag("b", "x")
    assert tag("p", [inner, ["y", None]], False, 0) == "<p><b>x</b>y0</p>"
    assert join("a", inner, separator=" · ") == "a · <b>x</b>"


def test_true_gives_a_bare_attribute_and_false_and_none_omit_it() -> None:
    assert tag("details", open=True, hidden=False, id=None, class_="c") == '<details open class="c"></details>'
    assert tag("input", value=1) == '<input value="1">'


def test_a_slice_of_markup_is_a_plain_string() -> None:
    part = Markup("<b>bold</b>")[:3]
    assert not isinstance(part, Markup)
    assert tag("p", part) == "<p>&lt;b&gt;</p>"
