"""Shows HTML that Python built, inside a Streamlit page, patched in place: nothing flickers, scroll and focus stay."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.components.v2 import component

from relight_app.markup import Markup
from relight_app.navigation import go_to

_FOLDER = Path(__file__).parent


def view(content: Markup, *, key: str, on_action: Callable[[str, Any], None] | None = None) -> None:
    """Show `content`.

    An element with `data-page` (and `data-query`, JSON) opens that page without a reload; one with `data-action` (and
    `data-value`, JSON) calls `on_action(name, value)` before the rerun that it causes. `data-menu` opens the popover of
    that id, `data-copy` copies the text of that id, `time[data-s]` counts its age, and `data-follow` stays at its end.
    """

    def act() -> None:
        asked: Mapping[str, Any] | None = st.session_state[key].action
        if asked is not None and on_action is not None:
            on_action(str(asked["name"]), asked.get("value"))

    result = _mount()(
        key=key, data={"html": str(content), "now": time.time()}, on_action_change=act, on_open_change=lambda: None
    )
    if result.open is not None:
        go_to(str(result.open["page"]), **{name: str(value) for name, value in result.open["query"].items()})


def _mount() -> Callable[..., Any]:
    # Registering the same text again is free, and a cache would outlive a reload of the files in development.
    return component(
        "relight_view",
        html="<div class='view'>\n</div>",
        css=(_FOLDER / "view.css").read_text(encoding="utf-8"),
        js=(_FOLDER / "view.js").read_text(encoding="utf-8"),
    )
