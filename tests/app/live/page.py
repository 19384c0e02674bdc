"""The page that the tests of live charts and values serve."""

import streamlit as st

from relight_app.live.chart import LiveSeries, live_chart
from relight_app.live.live_values import LiveValue, live_values

run = st.query_params["run"]
st.session_state["reruns"] = st.session_state.get("reruns", 0) + 1
st.markdown(f"reruns: {st.session_state['reruns']}")
st.button("Rerun")
live_values(
    run=run,
    key="values",
    progress_bar=True,
    rerun_on=["status"],
    values=[
        LiveValue("status", "Status", "status"),
        LiveValue("step", "Step", "integer", "of {steps_total}"),
        LiveValue("work_at_risk_s", "Work at risk", "duration", "{work_at_risk_steps} steps"),
        LiveValue("train/loss", "Loss"),
    ],
)
live_chart(
    run=run,
    key="loss",
    title="Loss",
    log_scale=st.toggle("Log scale"),
    series=[
        LiveSeries("train/loss", "train", "chart1", "raw+smooth" if st.toggle("Smooth") else "line"),
        LiveSeries("validation/loss", "validation", "chart2"),
    ],
)
live_chart(
    run=run,
    key="cpu",
    title="CPU",
    unit="%",
    x="time",
    height=200,
    series=[LiveSeries("system/cpu_percent", "CPU", "blue")],
)
