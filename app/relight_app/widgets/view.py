"""Shows HTML that Python built, inside a Streamlit page, patched in place: nothing flickers, scroll and focus stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import streamlit as st
from streamlit.components.v2 import component
from streamlit.errors import StreamlitAPIException

from relight_app.browser_session import remembered, widget_values
from relight_app.markup import Markup
from relight_app.navigation import follow, leave_for
from relight_app.server.presses import presses

_FOLDER = Path(__file__).parent


def view(
    content: Markup,
    *,
    key: str,
    on_action: Callable[[str, Any], None] | None = None,
    width: Literal["stretch", "content"] = "stretch",
) -> None:
    """Show `content`.

    An element with `data-page` (and `data-query`, JSON) opens that page without a reload; one with `data-action` (and
    `data-value`, JSON) calls `on_action(name, value)` before the rerun that it causes. `data-menu` opens the popover of
    that id, `data-copy` copies the text of that id, `time[data-s]` counts its age, and `data-follow` stays at its end.
    """

    presses.expect(key)
    memory, called = remembered(), f"{key}-called"

    def call() -> None:
        memory[called] = True
        pressed = widget_values()[key]
        if presses.claim(key):
            act(pressed)

    def act(pressed: Any) -> None:
        if pressed.action is not None and on_action is not None:
            on_action(str(pressed.action["name"]), pressed.action.get("value"))
        if pressed.open is not None:
            leave_for(str(pressed.open["page"]), **{name: str(value) for name, value in pressed.open["query"].items()})

    result = _mount(
        key=key,
        data={"html": str(content)},
        width=width,
        on_action_change=call,
        on_open_change=call,
    )
    # As with `action_button`: after a restart of the server a press reaches a session that knows no callback yet.
    if not memory.pop(called, False) and (result.action, result.open) != (None, None) and presses.claim(key):
        act(result)
        st.rerun()
    follow()


_registered: list[Callable[..., Any]] = []


def _mount(**arguments: Any) -> Any:
    """Put the component on the page; it is registered once for each Streamlit runtime (a test has several)."""
    try:
        if _registered:
            return _registered[-1](**arguments)
    except StreamlitAPIException as error:
        if getattr(error, "error_id", None) != "bidi-component-not-registered":
            raise
    _registered.append(
        component(
            "relight_view",
            html="<div class='view'>\n</div>",
            css=(_FOLDER / "view.css").read_text(encoding="utf-8"),
            js=(_FOLDER / "view.js").read_text(encoding="utf-8"),
        )
    )
    return _registered[-1](**arguments)
