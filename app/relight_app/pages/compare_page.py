"""The Compare page: curves, results and options of several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import relight_app.live
from relight_app.live.component import BrowserComponent, Mount
from relight_app.urls import module_url, plotly_url

_COMPONENT = BrowserComponent(
    "relight_compare",
    element="relight-board relight-compare",
    style=Path(relight_app.live.__file__).with_name("board.css"),
)


def list_mounts(_query: Mapping[str, str]) -> list[Mount]:
    """Return the comparison; the browser reads the runs from the address, and everything else from our route."""
    return [Mount(_COMPONENT, "compare", {"module": module_url("compare.js"), "plotly": plotly_url()})]
