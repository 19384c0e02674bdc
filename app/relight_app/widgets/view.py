"""Shows HTML that Python built in a Streamlit page, and patches it in place: no flicker, scroll and focus stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import streamlit as st

from relight_app.browser_session import remembered, widget_values
from relight_app.live.component import BrowserComponent
from relight_app.markup import Markup
from relight_app.navigation import follow, leave_for
from relight_app.server.presses import presses

_FOLDER = Path(__file__).parent
_COMPONENT = BrowserComponent(
    "relight_view",
    html="<div class='view'>\n</div>",
    style=_FOLDER / "view.css",
    script=_FOLDER / "view.js",
    isolate_styles=True,
)


def view(
    content: Markup,
    *,
    key: str,
    on_action: Callable[[str, Any], None] | None = None,
    width: Literal["stretch", "content"] = "stretch",
) -> None:
    """Show `content`.

    An element with `data-page` (and `data-query` as JSON) opens that page without a reload. One with `data-action` (and
    `data-value` as JSON) calls `on_action(name, value)` before the rerun that it causes. `data-menu` opens the popover
    with that id, `data-copy` copies the text of that id, `time[data-s]` counts its age, and an element with
    `data-follow` stays scrolled to its end.
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

    result = _COMPONENT.mount(
        key=key,
        data={"html": str(content)},
        width=width,
        on_action_change=call,
        on_open_change=call,
    )
    # As in `action_button`: after a restart of the server, a press reaches a session that has no callback yet.
    if not memory.pop(called, False) and (result.action, result.open) != (None, None) and presses.claim(key):
        act(result)
        st.rerun()
    follow()
