"""HTML as values that cannot be unescaped by accident: what the page's own views are built of. No Streamlit."""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Markup(str):
    """HTML that is safe to show. Plain strings are escaped when they become part of it."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """One element. Children are escaped unless they are `Markup`; None is left out, sequences are spliced.

    Attribute names lose a trailing underscore and write others as hyphens (`class_`, `data_key`). True gives a bare
    attribute; False and None leave it out.
    """
    start = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in _VOID:
        return Markup(f"<{name}{start}>")
    return Markup(f"<{name}{start}>{join(*children)}</{name}>")


def join(*children: object, separator: str = "") -> Markup:
    """Children one after the other, escaped as `tag` does."""
    return Markup(html.escape(separator).join(_flatten(children)))


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
