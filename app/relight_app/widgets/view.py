"""Shows HTML that Python built, inside a Streamlit page, patched in place: nothing flickers, scroll and focus stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import streamlit as st
from streamlit.components.v2 import component
from streamlit.errors import StreamlitAPIException

from relight_app.markup import Markup
from relight_app.navigation import go_to

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

    acted = f"{key}-acted"

    def act() -> None:
        asked: Mapping[str, Any] | None = st.session_state[key].action
        if asked is not None and on_action is not None:
            st.session_state[acted] = True
            on_action(str(asked["name"]), asked.get("value"))

    result = _mount(
        key=key,
        data={"html": str(content)},
        width=width,
        on_action_change=act,
        on_open_change=lambda: None,
    )
    called = st.session_state.pop(acted, False)
    if result.action is not None and on_action is not None and not called:
        # As with `action_button`: after a restart of the server a press reaches a session that knows no callback yet.
        on_action(str(result.action["name"]), result.action.get("value"))
        st.rerun()
    if result.open is not None:
        go_to(str(result.open["page"]), **{name: str(value) for name, value in result.open["query"].items()})


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
