"""A live chart: curves of a run that grow in the browser as rows are logged, without a rerun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from relight.metrics.file_format import split_name
from relight_app.live.component import BrowserComponent
from relight_app.server.assets import module_url, plotly_url

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


_HTML = """
<div class="relight-chart">
  <div class="relight-chart-head">
    <span class="relight-chart-title"></span><span class="relight-chart-legend"></span>
  </div>
  <div class="relight-chart-plot" role="group"></div>
  <div class="relight-chart-note" hidden></div>
</div>
"""
_COMPONENT = BrowserComponent(
    "relight_live_chart", html=_HTML, css=Path(__file__).with_name("chart.css").read_text(encoding="utf-8")
)


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
    empty: str = "Nothing has been logged yet.",
) -> None:
    """Draw `series` of `run`, live while the page is open. Zoom and hover survive updates and reruns of the page.

    `unit` formats the value axis, the legend and the hover: "ratio" (0 to 1, shown in percent), "%" (0 to 100), "B"
    (bytes, with prefixes), or any short text such as "s", "W", "°C".
    `x`: training steps, or the time of day (for the "system" stream, whose rows share steps).
    `y_range` fixes the value axis; None in it leaves that end free. `height` is the plot's, in pixels, without its
    title. `empty` is the sentence for a chart without a value. Whatever changes in a later rerun with the same `key`
    changes the chart in place.
    """
    _COMPONENT.mount(
        data=chart_data(
            run=run,
            series=series,
            title=title,
            unit=unit,
            log_scale=log_scale,
            height=height,
            x=x,
            y_range=y_range,
            empty=empty,
        ),
        key=key,
    )


def chart_data(
    *,
    run: str,
    series: Sequence[LiveSeries],
    title: str,
    unit: str | None,
    log_scale: bool,
    height: int,
    x: Literal["step", "time"],
    y_range: tuple[float | None, float | None] | None,
    empty: str,
) -> dict[str, Any]:
    """What the browser module gets, as JSON."""
    specs: list[dict[str, str]] = []
    for one in series:
        stream, column = split_name(one.name)
        specs.append(
            {
                "id": f"{one.run or run} {one.name} {one.kind}",
                "run": one.run or run,
                "name": one.name,
                "stream": stream,
                "column": column,
                "label": one.label,
                "color": one.color,
                "kind": one.kind,
            }
        )
    return {
        "module": module_url("chart.js"),
        "plotly": plotly_url(),
        "series": specs,
        "title": title,
        "unit": unit,
        "log_scale": log_scale,
        "height": height,
        "axis": x,
        "y_range": list(y_range) if y_range is not None else None,
        "empty": empty,
    }
