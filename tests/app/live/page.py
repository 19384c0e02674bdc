"""The page for the tests of live charts: the board of the run in the address, or the comparison of its runs."""

from dataclasses import replace

import streamlit as st

from relight_app.frame import show
from relight_app.live.board import chart_board
from relight_app.pages import compare_page

st.session_state["reruns"] = st.session_state.get("reruns", 0) + 1
st.markdown(f"reruns: {st.session_state['reruns']}")
st.button("Rerun")
run = st.query_params.get("run", "")
mounts = compare_page.list_mounts({}) if "ids" in st.query_params else [chart_board(run=run)]
for mount in mounts:
    show(replace(mount, data=mount.data | {"page": "", "id": ""}))
