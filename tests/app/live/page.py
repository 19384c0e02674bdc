"""The page for the tests of live charts and values."""

import streamlit as st

from relight_app.live.board import chart_board
from relight_app.live.live_values import LiveValue, live_values, read_fields

run = st.query_params["run"]
st.session_state["reruns"] = st.session_state.get("reruns", 0) + 1
st.markdown(f"reruns: {st.session_state['reruns']}")
st.button("Rerun")
live_values(
    run=run,
    key="values",
    rerun_on=["status"],
    state=read_fields(run),
    values=[
        LiveValue("status", "Status"),
        LiveValue("step", "Step", "integer", "of {steps_total}"),
        LiveValue("work_at_risk_s", "Work at risk", "duration", "{work_at_risk_steps} steps"),
        LiveValue("train/loss", "Loss"),
    ],
)
chart_board(run=run)
