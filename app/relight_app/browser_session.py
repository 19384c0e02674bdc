"""What a browser's session remembers from one drawing of a page to the next.

Streamlit breaks a callback off at its first touch of `st.session_state` once the next rerun has been asked for; an act
would then be half done, or not at all. A callback reads the widgets by `widget_values` and keeps what it has to say in
`remembered()`: neither is ever broken off.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

_KEY = "remembered"


def remembered() -> dict[str, Any]:
    """The session's own dictionary: the same one each time, to be read and to be changed."""
    known: dict[str, Any] | None = widget_values().get(_KEY)
    if known is None:
        known = st.session_state[_KEY] = {}
    return known


def widget_values() -> dict[str, Any]:
    """What the widgets hold now, by their keys."""
    return dict(st.session_state.to_dict())
