"""The start page: every run in the folder, what it is doing, and what is at risk."""

from __future__ import annotations

import streamlit as st

from relight.errors import RelightError
from relight.overview.summary import RunListing, RunSummary
from relight.runs.status import RunStatus
from relight.wording import count
from relight_app.engine import Engine, current_engine
from relight_app.markup import Markup, tag
from relight_app.navigation import address
from relight_app.problems import explain
from relight_app.tables import build_damaged_runs, build_run_list, filter_runs, sort_runs
from relight_app.widgets.empty import build_empty
from relight_app.widgets.notice import show_problem
from relight_app.widgets.view import view

_REFRESH_S = 1.0
_MOST_ROWS = 200
_FILTERS = ("All", "Running", "Finished", "Stopped", "Crashed", "Interrupted")


def render() -> None:
    """Draw the page."""
    engine = current_engine()
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.title("Runs", anchor=False, width="content")
        with st.container(horizontal=True, width="content", vertical_alignment="center", key="run-filters"):
            status = st.pills(
                "Status", _FILTERS, default="All", key="status", bind="query-params", label_visibility="collapsed",
                required=True,
            )  # fmt: skip
            text = st.text_input(
                "Search runs", key="q", bind="query-params", type="search", live="250ms", width=220,
                label_visibility="collapsed", placeholder="Search name, id or task", icon=":material/search:",
            )  # fmt: skip
    _show_list(engine, status=None if status in (None, "All") else str(status).lower(), text=text or "")


@st.fragment(run_every=_REFRESH_S)
def _show_list(engine: Engine, *, status: str | None, text: str) -> None:
    try:
        listing = engine.list_runs()
    except RelightError as error:
        show_problem(explain(error), key="runs-problem")
        return
    view(_build(engine, listing, status=status, text=text), key="runs-list")


def _build(engine: Engine, listing: RunListing, *, status: str | None, text: str) -> Markup:
    damaged = build_damaged_runs(listing.damaged) if listing.damaged else None
    if not listing.runs:
        return tag("div", _first_step(engine), damaged, class_="stack")
    chosen = sort_runs(filter_runs(listing.runs, status=status, text=text))
    if chosen:
        curves = {run.run: curve for run in chosen[:_MOST_ROWS] if (curve := engine.read_curve(run)) is not None}
        table = build_run_list(chosen[:_MOST_ROWS], curves=curves)
    else:
        table = build_empty(
            "No runs match",
            f"Clear the search or choose another status ({count(len(listing.runs), 'run')} in all).",
        )
    left_out = len(chosen) - _MOST_ROWS
    rest = (
        tag("p", f"{count(left_out, 'older run')} not shown. Use the search to find them.", class_="sub")
        if left_out > 0
        else None
    )
    return tag("div", tag("p", _totals(listing.runs), class_="sub"), table, rest, damaged, class_="stack")


def _totals(runs: list[RunSummary]) -> str:
    numbers = {status: sum(run.status is status for run in runs) for status in RunStatus}
    parts = [f"{number} {status}" for status, number in numbers.items() if number]
    return f"{count(len(runs), 'run')}: {', '.join(parts)}"


def _first_step(engine: Engine) -> Markup:
    return build_empty(
        "No runs yet",
        "Start with a network that reads handwritten digits: it trains in less than a minute on any machine. "
        "You can kill it halfway and resume it.",
        action=tag("a", "Launch the first run", class_="button solid", href=address("launch"), data_page="launch"),
        footnote=tag("span", "Runs are stored in ", tag("span", str(engine.folder), class_="mono")),
    )
