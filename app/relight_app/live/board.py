"""The chart board: all charts of a run. Mounted once for each run; the browser reads the rest from our routes."""

from __future__ import annotations

from pathlib import Path

from relight_app.live.component import BrowserComponent, component_key
from relight_app.urls import module_url, plotly_url

_COMPONENT = BrowserComponent(
    "relight_chart_board",
    html='\n<div class="relight-board"></div>\n',
    style=Path(__file__).with_name("board.css"),
)


def chart_board(*, run: str) -> None:
    """Show the charts of `run`. They follow the run without reruns, and keep zoom and hover through them."""
    _COMPONENT.mount(
        key=component_key(f"board-{run}"),
        data={"module": module_url("board.js"), "plotly": plotly_url(), "run": run},
    )
