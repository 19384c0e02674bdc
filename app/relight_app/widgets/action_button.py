"""A button that does something, whichever session its press reaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st


def action_button(label: str, act: Callable[..., None], *args: Any, key: str, **look: Any) -> None:
    """Draw the button; a press calls `act(*args)` once, before the page is drawn.

    A callback does that, except right after a restart of the server: the browser still shows what its former session
    drew, and the new session gets a press for which it knows no callback yet. That is seen when the button is drawn.
    """
    called = f"{key}-called"

    def call() -> None:
        st.session_state[called] = True
        act(*args)

    pressed = st.button(label, key=key, on_click=call, **look)
    if st.session_state.pop(called, False) or not pressed:
        return
    act(*args)
    st.rerun()
