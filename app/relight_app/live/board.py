"""The chart board: all charts of a run. Mounted once for each run; the browser reads the rest from our routes."""

from __future__ import annotations

from pathlib import Path

from relight_app.live.component import BrowserComponent, Mount
from relight_app.urls import module_url, plotly_url

_COMPONENT = BrowserComponent(
    "relight_chart_board", element="relight-board", style=Path(__file__).with_name("board.css")
)


def chart_board(*, run: str) -> Mount:
    """Return the charts of `run`. They follow the run without reruns, and keep zoom and hover through them."""
    return Mount(_COMPONENT, f"board-{run}", {"module": module_url("board.js"), "plotly": plotly_url(), "run": run})
