"""A live chart: a run's curves grow in the browser as the run logs values, without a rerun."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relight.metrics.file_format import split_name
from relight_app.live.component import BrowserComponent, component_key
from relight_app.urls import module_url, plotly_url


@dataclass(frozen=True)
class LiveSeries:
    """One curve. Steps that a later attempt trained again are drawn faint beneath it."""

    name: str
    """Full name of the metric: "train/loss"."""
    label: str
    color: str = "chart1"
    """A chart color of the theme ("chart1" to "chart8"), a named one ("gray"), or "#rrggbb"."""
    smooth: bool = False
    """Whether to draw the values light and their moving average bold."""


@dataclass(frozen=True)
class ChartPlan:
    """What one chart shows."""

    key: str
    title: str
    series: tuple[LiveSeries, ...]
    unit: str | None = None
    """Either "ratio" (0 to 1, shown in percent), "%" (0 to 100), "B" (bytes, with prefixes), or a text such as "W"."""
    by_time: bool = False
    """Whether the x axis is the time of day instead of the step: rows of the "system" stream share steps."""
    y_range: tuple[float | None, float | None] | None = None
    """Fixed ends of the value axis; None leaves an end free."""


_HTML = """
<div class="relight-chart">
  <div class="relight-chart-head">
    <span class="relight-chart-title"></span><span class="relight-chart-legend"></span>
  </div>
  <div class="relight-chart-plot" role="group"></div>
  <div class="relight-chart-note" hidden></div>
</div>
"""
_COMPONENT = BrowserComponent("relight_live_chart", html=_HTML, style=Path(__file__).with_name("chart.css"))


def live_chart(plan: ChartPlan, *, run: str, height: int, empty: str) -> None:
    """Draw the chart of `run`, live while the page is open; zoom and hover survive updates and reruns.

    `height` is that of the plot in pixels, without the title. `empty` is the sentence for a chart without values. In a
    rerun, whatever changed in the plan changes the chart in place.
    """
    series = []
    for one in plan.series:
        stream, column = split_name(one.name)
        series.append(
            {
                "id": f"{run} {one.name}",
                "name": one.name,
                "stream": stream,
                "column": column,
                "label": one.label,
                "color": one.color,
                "smooth": one.smooth,
            }
        )
    _COMPONENT.mount(
        key=component_key(f"{plan.key}-{run}"),
        data={
            "module": module_url("chart.js"),
            "plotly": plotly_url(),
            "run": run,
            "series": series,
            "title": plan.title,
            "unit": plan.unit,
            "height": height,
            "axis": "time" if plan.by_time else "step",
            "y_range": plan.y_range,
            "empty": empty,
        },
    )
