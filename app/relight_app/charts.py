"""Chart builders: the small curves in the list of runs, and the plan of a run's live charts. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from tsdownsample import MinMaxLTTBDownsampler

from relight_app.formats import is_share, short_metric, title_metric
from relight_app.live.chart import ChartPlan, LiveSeries
from relight_app.markup import Markup, tag

SPARK_POINTS = 48
_SPARK_WIDTH, _SPARK_HEIGHT, _SPARK_MARGIN = 112.0, 30.0, 2.0


def thin_out(values: npt.NDArray[np.float64], *, points: int) -> list[float]:
    """Thin a long curve out to about `points` values, and keep its peaks and dips."""
    if len(values) <= points:
        return [float(value) for value in values]
    chosen = MinMaxLTTBDownsampler().downsample(  # type: ignore[no-untyped-call]
        np.ascontiguousarray(values), n_out=points
    )
    return [float(value) for value in values[chosen]]


def draw_sparkline(values: Sequence[float], *, label: str) -> Markup:
    """Draw a small curve without axes. Values that are not finite leave gaps. `label` describes it in words."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return Markup("")
    low, high = _spark_range(finite)
    span = high / 2 - low / 2 or 1.0  # halves: the full distance may overflow a float
    step = (_SPARK_WIDTH - 2 * _SPARK_MARGIN) / (len(values) - 1)
    height = _SPARK_HEIGHT - 2 * _SPARK_MARGIN
    parts: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if not math.isfinite(value):
            parts.append([])
            continue
        x = _SPARK_MARGIN + index * step
        y = _SPARK_MARGIN + height * (1 - (min(max(value, low), high) / 2 - low / 2) / span)
        parts[-1].append(f"{x:.1f} {y:.1f}")
    lines = [part for part in parts if part]
    path = "".join("M" + "L".join(part) for part in lines)
    base = _SPARK_HEIGHT
    area = "".join(
        f"M{part[0].split()[0]} {base}L" + "L".join(part) + f"L{part[-1].split()[0]} {base}Z" for part in lines
    )
    return tag(
        "svg",
        tag("path", d=area, fill="var(--st-link-color)", fill_opacity="0.1"),
        tag(
            "path", d=path, fill="none", stroke="var(--st-link-color)", stroke_width="1.6",
            stroke_linejoin="round", stroke_linecap="round", vector_effect="non-scaling-stroke",
        ),
        viewBox=f"0 0 {_SPARK_WIDTH:g} {_SPARK_HEIGHT:g}", width=f"{_SPARK_WIDTH:g}", height=f"{_SPARK_HEIGHT:g}",
        role="img", aria_label=label,
    )  # fmt: skip


def _spark_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the lowest value and the 97th percentile: the high first steps of a loss must not flatten the rest."""
    ordered = sorted(values)
    return ordered[0], ordered[min(len(ordered) - 1, math.ceil(0.97 * len(ordered)) - 1)]


def plan_learning_charts(names: Iterable[str], *, best_metric: str | None) -> list[ChartPlan]:
    """Plan the charts of the training: loss first, then the best metric, the others, and the learning rate last.

    Streams that share a column ("loss" of train and validation) share a chart.
    """
    columns: dict[str, list[str]] = {}
    for name in names:
        if not name.startswith("system/"):
            columns.setdefault(short_metric(name), []).append(name)
    if not columns:
        columns = {"loss": ["train/loss"]}
    best = short_metric(best_metric) if best_metric else ""
    order = {"loss": 0, best: 1, "lr": 99}
    ranked = sorted(columns, key=lambda column: (order.get(column, 50), column))
    return [
        ChartPlan(
            key=f"chart-{column}",
            title=title_metric(column),
            unit="ratio" if is_share(column) else None,
            series=tuple(_learning_series(name) for name in sorted(columns[column], key=_stream_rank)),
        )
        for column in ranked
    ]


def plan_machine_charts(names: Iterable[str]) -> list[ChartPlan]:
    """Plan the charts of the resources that the run uses: CPU, memory, and two per GPU that it can see."""
    available = set(names)
    plans = []
    if "system/cpu_percent" in available:
        plans.append(
            _machine_chart(
                "cpu", "CPU", "%",
                _machine_series("cpu_percent", "this run", "chart1"),
                _machine_series("machine_cpu_percent", "machine", "gray"),
            )
        )  # fmt: skip
    if "system/memory_bytes" in available:
        plans.append(
            _machine_chart(
                "memory", "Memory", "B",
                _machine_series("memory_bytes", "this run", "chart3"),
                _machine_series("machine_memory_bytes", "machine", "gray"),
            )
        )  # fmt: skip
    card = 0
    while f"system/gpu{card}_utilization_percent" in available:
        plans.append(
            _machine_chart(
                f"gpu{card}-utilization", f"GPU {card}", "%",
                _machine_series(f"gpu{card}_utilization_percent", "utilization", "chart2"),
                y_range=(0, 100),
            )
        )  # fmt: skip
        plans.append(
            _machine_chart(
                f"gpu{card}-memory", f"GPU {card} memory", "B",
                _machine_series(f"gpu{card}_process_memory_bytes", "this run", "chart3"),
                _machine_series(f"gpu{card}_memory_bytes", "whole GPU", "gray"),
            )
        )  # fmt: skip
        card += 1
    return plans


def _learning_series(name: str) -> LiveSeries:
    stream, _, column = name.rpartition("/")
    if column == "lr":
        return LiveSeries(name, "learning rate", "chart1")
    if stream == "train":
        return LiveSeries(name, "train", "chart1", smooth=True)
    return LiveSeries(name, stream or column, "chart2" if stream == "validation" else "chart3")


def _stream_rank(name: str) -> tuple[int, str]:
    stream = name.rpartition("/")[0]
    return {"train": 0, "validation": 1}.get(stream, 2), stream


def _machine_series(column: str, label: str, color: str) -> LiveSeries:
    # A load that is sampled each second becomes a band of noise after some hours. People look for its average.
    return LiveSeries(f"system/{column}", label, color, smooth=column.endswith("_percent"))


def _machine_chart(
    key: str, title: str, unit: str, *series: LiveSeries, y_range: tuple[float | None, float | None] = (0, None)
) -> ChartPlan:
    return ChartPlan(key=f"chart-{key}", title=title, series=series, unit=unit, by_time=True, y_range=y_range)
