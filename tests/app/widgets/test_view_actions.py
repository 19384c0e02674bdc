"""An action in a view is done once, both in the session that drew the view and in one that has not drawn it yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from relight_app.widgets import view as view_module


def page() -> None:
    import streamlit as st

    from relight_app.markup import Markup
    from relight_app.widgets.view import view

    def act(name: str, value: object) -> None:
        st.session_state["done"] = [*st.session_state.get("done", []), (name, value)]

    view(Markup("<p></p>"), key="menu", on_action=act)
    st.text(str(st.session_state.get("done", [])))


@pytest.mark.parametrize("called_back", [True, False], ids=["as ever", "right after a restart of the server"])
def test_an_action_is_done_once(monkeypatch: pytest.MonkeyPatch, called_back: bool) -> None:
    chosen: list[dict[str, Any] | None] = [{"name": "pin", "value": 23}]

    def mount(*, key: str, on_action_change: Any, **_: Any) -> SimpleNamespace:
        action = chosen.pop() if chosen else None  # a trigger exists only during one run of the page
        if action is not None and called_back:
            st.session_state[key] = SimpleNamespace(action=action, open=None)
            on_action_change()
        return SimpleNamespace(action=action, open=None)

    monkeypatch.setattr(view_module, "_COMPONENT", SimpleNamespace(mount=mount))
    shown = AppTest.from_function(page).run()
    assert not shown.exception
    assert shown.text[0].value == "[('pin', 23)]"
    shown.run()
    assert shown.text[0].value == "[('pin', 23)]"
