"""The page of one run: progress, work at risk, charts, checkpoints, log, and the buttons that act on it."""

from __future__ import annotations

from collections.abc import Mapping

from relight.errors import RelightError
from relight_app.engine import current_engine
from relight_app.live.board import chart_board
from relight_app.live.component import Mount
from relight_app.pages.shown_parts import show_parts


def list_mounts(query: Mapping[str, str]) -> list[Mount]:
    """Return the parts and the charts of the run that the address names."""
    try:
        run = current_engine().find_layout(query.get("id", "")).run_id
    except RelightError:
        return [show_parts("run-header", key="missing", query=query)]
    return [
        show_parts("run-header", "run-notices", "run-exports", "run-figures", key="run-top", run=run, query=query),
        chart_board(run=run),
        show_parts("run-checkpoints", "run-details", key="run-bottom", run=run, query=query),
    ]
