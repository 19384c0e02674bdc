"""The page of one run: progress, work at risk, charts, checkpoints, log, and the buttons that act on it."""

from __future__ import annotations

import streamlit as st

from relight.errors import RelightError
from relight_app.charts import plan_learning_charts, plan_machine_charts
from relight_app.engine import current_engine
from relight_app.live.chart import ChartPlan, live_chart
from relight_app.pages.shown_parts import show_parts

_CHART_HEIGHT = 250


def render() -> None:
    """Mount the parts of the run that the address names."""
    engine, query = current_engine(), st.query_params.to_dict()
    asked = query.get("id", "")
    try:
        run = engine.find_layout(asked).run_id
    except RelightError:
        show_parts("run-header", key="missing", query=query)
        return
    show_parts("run-header", "run-notices", "run-exports", "run-figures", key="run-top", run=run, query=query)
    _show_charts(run)
    show_parts("run-checkpoints", "run-details", key="run-bottom", run=run, query=query)


def _show_charts(run: str) -> None:
    engine = current_engine()
    try:
        names, record = engine.list_metrics(run), engine.read_record(run)
    except RelightError:
        return
    learning = plan_learning_charts(names, best_metric=record.best_metric)
    with st.grid(2, min_column_width=380, gap="small"):
        for plan in learning[:2]:
            _show_chart(run, plan, height=_CHART_HEIGHT + 40)
    smaller = learning[2:] + plan_machine_charts(names)
    if smaller:
        with st.grid(3, min_column_width=320, gap="small"):
            for plan in smaller:
                _show_chart(run, plan, height=_CHART_HEIGHT - 70)


def _show_chart(run: str, plan: ChartPlan, *, height: int) -> None:
    with st.container(border=True, height="stretch", key=f"card-{plan.key}"):
        live_chart(plan, run=run, height=height, empty="Nothing was logged yet.")
