"""The page for the tests of live charts: the board of the run in the address, or the comparison of its runs."""

import streamlit as st

from relight_app.live.board import chart_board
from relight_app.pages import compare_page

st.session_state["reruns"] = st.session_state.get("reruns", 0) + 1
st.markdown(f"reruns: {st.session_state['reruns']}")
st.button("Rerun")
if "ids" in st.query_params:
    compare_page.render()
else:
    chart_board(run=st.query_params["run"])
