"""A press causes one action, both in the session that drew the button and in one that has not drawn it yet."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def page() -> None:
    import streamlit as st

    from relight_app.widgets.action_button import action_button

    def add(amount: int) -> None:
        st.session_state["total"] = st.session_state.get("total", 0) + amount

    action_button("Add", add, 5, key="add")
    st.text(f"total {st.session_state.get('total', 0)}")


def test_each_press_acts_once_and_shows_at_once() -> None:
    shown = AppTest.from_function(page).run()
    for total in (5, 10):
        shown.button(key="add").click().run()
        assert shown.text[0].value == f"total {total}"
    shown.run()
    assert shown.text[0].value == "total 10"


def test_a_press_that_reaches_a_session_which_never_drew_the_button_acts_once() -> None:
    before = AppTest.from_function(page).run()
    before.button(key="add").click()
    pressed = before._tree.get_widget_states()
    after = AppTest.from_function(page)
    after._run(pressed)
    assert not after.exception
    assert after.text[0].value == "total 5"
    after.run()
    assert after.text[0].value == "total 5"
