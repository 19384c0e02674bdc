"""Builds parts as the server does, and reads their markup as a person or a browser would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from relight_app.engine import Engine
from relight_app.parts.registry import PARTS

RUN_PARTS = [name for name in PARTS if name.startswith("run-")]
_VOID = {"br", "hr", "img", "input", "link", "meta"}


class Element:
    """An element of the markup."""

    def __init__(self, name: str, attributes: dict[str, str | None]) -> None:
        self.name = name
        self.attributes = attributes
        self.children: list[Element | str] = []

    @property
    def text(self) -> str:
        """All text, with single spaces between elements."""
        parts = (child if isinstance(child, str) else child.text for child in self.children)
        return re.sub(r"\s+", " ", " ".join(parts)).strip()

    @property
    def enabled(self) -> bool:
        """Whether a button can be pressed."""
        return self.attributes.get("aria-disabled") != "true"

    @property
    def payload(self) -> dict[str, Any]:
        """What a button or form sends with its action."""
        payload: dict[str, Any] = json.loads(self.attributes.get("data-payload") or "{}")
        return payload

    def walk(self) -> Iterator[Element]:
        """Yield this element and all below it."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def find_all(self, name: str = "", /, **attributes: str) -> list[Element]:
        """Return the elements below with this name and these attributes."""
        wanted = {key.removesuffix("_").replace("_", "-"): value for key, value in attributes.items()}
        return [
            element
            for element in self.walk()
            if (not name or element.name == name) and wanted.items() <= element.attributes.items()
        ]

    def button(self, label: str) -> Element:
        """Return the button that acts and has this label."""
        (found,) = [one for one in self._buttons() if one.text == label]
        return found

    def buttons(self) -> dict[str, bool]:
        """Return for each button that acts and is in no menu, by label, whether it can be pressed."""
        return {one.text: one.enabled for one in self._buttons() if one.attributes.get("role") != "menuitem"}

    def fields(self) -> dict[str, str]:
        """Return the values of the form's fields by name."""
        values = {}
        for field in self.find_all("input"):
            if field.attributes.get("name"):
                values[str(field.attributes["name"])] = field.attributes.get("value") or ""
        for field in self.find_all("select"):
            if field.attributes.get("name"):
                options = field.find_all("option")
                chosen = [one for one in options if "selected" in one.attributes] or options
                values[str(field.attributes["name"])] = chosen[0].attributes.get("value") or ""
        return values

    def links(self) -> list[str]:
        """Return the addresses of all links."""
        return [str(link.attributes["href"]) for link in self.find_all("a") if "href" in link.attributes]

    def _buttons(self) -> list[Element]:
        return [one for one in self.find_all("button") if "data-act" in one.attributes]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag, "elements are closed in order"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(markup: str) -> Element:
    """Parse the markup of a part."""
    parser = _Parser()
    parser.feed(markup)
    parser.close()
    assert parser.open == [parser.root], "every element is closed"
    return parser.root


def show(engine: Engine, *names: str, **query: str) -> Element:
    """Build the parts with the query of a page's address, and parse them."""
    return read("".join(PARTS[name].build(engine, query) for name in names))


def show_run(engine: Engine, run: str, **query: str) -> Element:
    """Build all parts of a run's page."""
    return show(engine, *RUN_PARTS, id=run, **query)
