"""A live chart: curves of a run that grow in the browser as rows are logged, without a rerun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import streamlit as st

SeriesKind = Literal["line", "ghost", "raw+smooth"]


@dataclass(frozen=True)
class LiveSeries:
    """One curve.

    `name` is the full metric name ("train/loss"). `color` is a theme colour ("primary", "blue", "red", "orange",
    "yellow", "green", "violet", "gray"), "chart1" to "chart10" of the theme's chart colours, or "#rrggbb".
    `kind`: "line" (what later attempts trained again is drawn faint beneath it, by itself), "raw+smooth" (the same,
    with the raw values light and a moving average bold), "ghost" (the whole curve faint, to compare with another run).
    `run` is another run than the chart's, for comparisons.
    """

    name: str
    label: str
    color: str = "chart1"
    kind: SeriesKind = "line"
    run: str | None = None


def live_chart(
    *,
    run: str,
    series: Sequence[LiveSeries],
    title: str,
    key: str,
    unit: str | None = None,
    log_scale: bool = False,
    height: int = 320,
    x: Literal["step", "time"] = "step",
    y_range: tuple[float | None, float | None] | None = None,
) -> None:
    """Draw `series` of `run`, live while the page is open. Zoom and hover survive updates and reruns of the page.

    `unit` formats the value axis and the hover: "%", "s", "W", "°C", "B" (bytes, as KiB to TiB) or any short text.
    `x`: training steps, or the time of day (for the "system" stream, whose rows share steps).
    `y_range` fixes the value axis; None in it leaves that end free.
    Changing `title`, `log_scale` or a series in a later rerun changes the chart in place when `key` stays the same.
    """
    st.caption(title)
