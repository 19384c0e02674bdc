"""A button that acts exactly once per press, whichever session or rerun the press reaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from relight_app.browser_session import remembered
from relight_app.server.presses import presses


def action_button(label: str, act: Callable[..., None], *args: Any, key: str, **look: Any) -> None:
    """Draw the button; a press calls `act(*args)` once, before the page is drawn.

    `act` reads and stores its data with `relight_app.browser_session`, so Streamlit cannot abort it. It is called from
    a callback, except right after a restart of the server: the browser then still shows what its former session drew,
    and the new session receives a press for which it has no callback yet. Drawing the button handles such a press.
    """
    presses.expect(key)
    memory, called = remembered(), f"{key}-called"

    def call() -> None:
        memory[called] = True
        if presses.claim(key):
            act(*args)

    pressed = st.button(label, key=key, on_click=call, **look)
    if memory.pop(called, False) or not pressed or not presses.claim(key):
        return
    act(*args)
    st.rerun()
