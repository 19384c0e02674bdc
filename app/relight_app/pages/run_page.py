"""The page of one run: progress, work at risk, charts, checkpoints, log, and the buttons that act on it."""

from __future__ import annotations

import streamlit as st

from relight.errors import RelightError
from relight_app.engine import current_engine
from relight_app.live.board import chart_board
from relight_app.pages.shown_parts import show_parts


def render() -> None:
    """Mount the parts of the run that the address names."""
    query = st.query_params.to_dict()
    try:
        run = current_engine().find_layout(query.get("id", "")).run_id
    except RelightError:
        show_parts("run-header", key="missing", query=query)
        return
    show_parts("run-header", "run-notices", "run-exports", "run-figures", key="run-top", run=run, query=query)
    chart_board(run=run)
    show_parts("run-checkpoints", "run-details", key="run-bottom", run=run, query=query)
