"""The Compare page: curves, results and options of several runs side by side."""

from __future__ import annotations

from pathlib import Path

import relight_app.live
from relight_app.live.component import BrowserComponent
from relight_app.urls import module_url, plotly_url

_LIVE = Path(relight_app.live.__file__).parent
_COMPONENT = BrowserComponent(
    "relight_compare",
    html='\n<div class="relight-board relight-compare"></div>\n',
    style=_LIVE / "board.css",
)


def render() -> None:
    """Mount the comparison; the browser reads the runs from the address, and everything else from our route."""
    _COMPONENT.mount(key="compare", data={"module": module_url("compare.js"), "plotly": plotly_url()})
