"""HTML as values that are always escaped: the building blocks of the pages' own views. No Streamlit."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Markup(str):
    """HTML that is safe to show. Plain strings are escaped when they are added to it."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Build one element. Children are escaped unless they are `Markup`; None is skipped, and sequences are flattened.

    Attribute names lose a trailing underscore, and other underscores become hyphens (`class_`, `data_key`). True gives
    an attribute without a value; False and None omit it.
    """
    start = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in _VOID:
        return Markup(f"<{name}{start}>")
    return Markup(f"<{name}{start}>{join(*children)}</{name}>")


def join(*children: object, separator: str = "") -> Markup:
    """Join children, escaped as in `tag`."""
    return Markup(html.escape(separator).join(_flatten(children)))


def wide_table(heads: Sequence[object], rows: Sequence[Markup], *, label: str, class_: str = "dense") -> Markup:
    """Build a table that scrolls sideways when it is too wide, also with the keyboard.

    A plain string in `heads` becomes a header cell; anything else must be header cells already.
    """
    cells = [tag("th", head, scope="col") if type(head) is str else head for head in heads]
    table = tag("table", tag("thead", tag("tr", cells)), tag("tbody", rows), class_=class_, aria_label=label)
    scroll = tag(
        "div", table, class_="scroll", tabindex="0", role="region", aria_label=f"{label}, scrollable"
    )  # fmt: skip
    return tag("div", scroll, class_="table")


def _flatten(children: Iterable[object]) -> Iterable[str]:
    for child in children:
        if child is None or child is False:
            continue
        if isinstance(child, Markup):
            yield str(child)
        elif isinstance(child, list | tuple):
            yield from _flatten(child)
        else:
            yield html.escape(str(child))


def _attribute(key: str, value: object) -> str:
    name = key.removesuffix("_").replace("_", "-")
    if value is True:
        return f" {name}"
    if value is False:
        return ""
    return f' {name}="{html.escape(str(value))}"'
