"""The live areas of a page: mounted once, for as long as the page is open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from relight_app.live.component import BrowserComponent, Mount
from relight_app.parts.registry import PARTS
from relight_app.urls import module_url

_COMPONENT = BrowserComponent(
    "relight_parts",
    element="view",
    style=Path(__file__).parents[1] / "live" / "parts.css",
    isolate_styles=True,
)


def show_parts(*names: str, key: str, run: str = "", query: Mapping[str, str] | None = None) -> Mount:
    """Show these parts below each other, of `run` if they belong to one.

    The browser asks for them with the query of its address; `query` only tells it that the page has changed.
    """
    return Mount(
        _COMPONENT,
        key,
        {
            "module": module_url("parts.js"),
            "parts": [{"name": name, "topics": PARTS[name].topics} for name in names],
            "run": run,
            "query": dict(query or {}),
        },
    )
