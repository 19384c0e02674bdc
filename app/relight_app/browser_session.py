"""The state that a browser session keeps from one drawing of a page to the next.

When the next rerun has been requested, Streamlit aborts a callback at its first access to `st.session_state`, and the
action would stay half done. Callbacks therefore read the widgets with `widget_values` and store their results in
`remembered()`: Streamlit aborts neither.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

_KEY = "remembered"


def remembered() -> dict[str, Any]:
    """Return the session's own dictionary, for reading and writing."""
    known: dict[str, Any] | None = widget_values().get(_KEY)
    if known is None:
        known = st.session_state[_KEY] = {}
    return known


def widget_values() -> dict[str, Any]:
    """Return the current values of the widgets, by key."""
    return dict(st.session_state.to_dict())
