"""Chart builders: the small curves in the list of runs, and the plan of a run's live charts. Pure."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from tsdownsample import MinMaxLTTBDownsampler

from relight.metrics.file_format import split_name
from relight_app.formats import is_share, title_metric
from relight_app.markup import Markup, tag

SPARK_POINTS = 48
_SPARK_WIDTH, _SPARK_HEIGHT, _SPARK_MARGIN = 112.0, 30.0, 2.0
_PLAIN_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
_LEADING_CHARTS = 2
_FEW_CHARTS = 3
_LONG_NAME = 40


class LiveSeries(msgspec.Struct, frozen=True):
    """One curve. Steps that a later attempt trained again are drawn faint beneath it."""

    name: str
    """Full name of the metric: "train/loss"."""
    label: str
    color: str = "chart1"
    """A chart color of the theme ("chart1", "chart2", …, as many as needed), a named one ("gray"), or "#rrggbb"."""
    smooth: bool = False
    """Whether smoothing applies: the values are then faint, and their moving average is bold."""


class ChartPlan(msgspec.Struct, frozen=True):
    """What one chart shows."""

    key: str
    title: str
    series: tuple[LiveSeries, ...]
    unit: str | None = None
    """Either "ratio" (0 to 1, shown in percent), "%" (0 to 100), "B" (bytes, with prefixes), or a text such as "W"."""
    by_time: bool = False
    """Whether the x axis is always a time: rows of the "system" stream share steps."""
    y_range: tuple[float | None, float | None] | None = None
    """Fixed ends of the value axis; None leaves an end free."""


class ChartGroup(msgspec.Struct, frozen=True):
    """Charts under one heading. The first `leading` of them are drawn larger."""

    title: str
    charts: tuple[ChartPlan, ...]
    leading: int = 0


def thin_out(values: npt.NDArray[np.float64], *, points: int) -> list[float]:
    """Thin a long curve out to about `points` values, and keep its peaks and dips."""
    if len(values) <= points:
        return [float(value) for value in values]
    chosen = MinMaxLTTBDownsampler().downsample(  # type: ignore[no-untyped-call]
        np.ascontiguousarray(values), n_out=points
    )
    return [float(value) for value in values[chosen]]


def draw_sparkline(values: Sequence[float], *, label: str, ends: tuple[float, float] | None = None) -> Markup:
    """Draw a small curve without axes. Values that are not finite leave gaps. `label` describes it in words.

    `ends` are the lowest and the highest value that fit; without them, nearly all of the values do.
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return Markup("")
    low, high = ends or _spark_range(finite)
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
        role="img", aria_label=label, preserveAspectRatio="none",
    )  # fmt: skip


def _spark_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the lowest value and the 97th percentile: the high first steps of a loss must not flatten the rest."""
    ordered = sorted(values)
    return ordered[0], ordered[min(len(ordered) - 1, math.ceil(0.97 * len(ordered)) - 1)]


def plan_board(
    names: Iterable[str], *, best_metric: str | None, cards: Mapping[int, str] | None = None
) -> tuple[ChartGroup, ...]:
    """Plan all charts of a run: the training first, then a group for each prefix ("grad/…"), the machine last.

    `cards` are as for `plan_machine_charts`.
    """
    names = list(names)
    groups: dict[str, list[ChartPlan]] = {"": []}
    for plan in plan_learning_charts(names, best_metric=best_metric):
        prefix, slash, _ = split_name(plan.series[0].name)[1].partition("/")
        groups.setdefault(prefix if slash else "", []).append(plan)
    machine = plan_machine_charts(names, cards=cards)
    return (
        *(
            ChartGroup(title or "Training", tuple(groups[title]), leading=0 if title else _count_leading(groups[title]))
            for title in sorted(groups, key=lambda title: (bool(title), _natural(title)))
            if groups[title]
        ),
        *([ChartGroup("Machine", tuple(machine))] if machine else []),
    )


def _count_leading(charts: Sequence[ChartPlan]) -> int:
    """Return how many charts are drawn larger: all of a few, so that none is left alone in its row."""
    return len(charts) if len(charts) <= _FEW_CHARTS else _LEADING_CHARTS


def plan_learning_charts(names: Iterable[str], *, best_metric: str | None) -> list[ChartPlan]:
    """Plan the charts of the training: loss first, then the best metric, the others, and the learning rate last.

    Streams that share a column ("loss" of train and validation) share a chart.
    """
    columns: dict[str, list[str]] = {}
    for name in names:
        if not name.startswith("system/"):
            columns.setdefault(split_name(name)[1], []).append(name)
    best = split_name(best_metric)[1] if best_metric else None
    order = {"loss": 0, best: 1, "lr": 99}
    ranked = sorted(columns, key=lambda column: (order.get(column, 50), _natural(column)))
    return [_learning_chart(column, sorted(columns[column], key=_stream_rank)) for column in ranked]


def plan_machine_charts(names: Iterable[str], *, cards: Mapping[int, str] | None = None) -> list[ChartPlan]:
    """Plan the charts of the resources that the run uses: CPU, memory, and two per GPU that it can see.

    `cards` are those that it uses, by number, each with what is on it ("rank 0"), if that is known: several of them
    share two charts, with a line for each.
    """
    available = set(names)
    plans = []
    if "system/cpu_share_percent" in available:
        plans.append(
            _machine_chart(
                "cpu", "CPU", "%",
                _machine_series("cpu_share_percent", "this run", "chart1"),
                _machine_series("machine_cpu_percent", "machine", "gray"),
            )
        )  # fmt: skip
    elif "system/cpu_percent" in available:  # a run of an earlier version: 100 is one processor
        plans.append(_machine_chart("cpu", "CPU (100 % is one processor)", "%",
                                    _machine_series("cpu_percent", "this run", "chart1")))  # fmt: skip
    if "system/memory_bytes" in available:
        plans.append(
            _machine_chart(
                "memory", "Memory", "B",
                _machine_series("memory_bytes", "this run", "chart3"),
                _machine_series("machine_memory_bytes", "machine", "gray"),
            )
        )  # fmt: skip
    if cards and len(cards) > 1:
        return [*plans, *_plan_cards(available, cards)]
    for card in itertools.takewhile(
        lambda card: f"system/gpu{card}_utilization_percent" in available, itertools.count()
    ):
        if cards and card not in cards:
            continue
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
    return plans


def _plan_cards(available: Collection[str], cards: Mapping[int, str]) -> list[ChartPlan]:
    """Plan the charts of several cards: what each of them does, and what the run takes of its memory."""
    there = [card for card in sorted(cards) if f"system/gpu{card}_utilization_percent" in available]
    if not there:
        return []

    def draw(column: str) -> list[LiveSeries]:
        return [
            _machine_series(
                f"gpu{card}_{column}", f"GPU {card}" + (f", {cards[card]}" if cards[card] else ""), f"chart{place}"
            )
            for place, card in enumerate(there, start=1)
        ]

    return [
        _machine_chart("gpus-utilization", "GPUs", "%", *draw("utilization_percent"), y_range=(0, 100)),
        _machine_chart("gpus-memory", "GPU memory of this run", "B", *draw("process_memory_bytes")),
    ]


def _learning_chart(column: str, names: Sequence[str]) -> ChartPlan:
    taken = {"train": "chart1", "validation": "chart2"}
    series = []
    for name in names:
        stream = split_name(name)[0]
        color = taken.setdefault(stream, f"chart{len(taken) + 1}")
        if column == "lr":
            series.append(LiveSeries(name, "learning rate" if len(names) == 1 else stream, color))
        else:
            # An evaluation has few values, each of which counts.
            series.append(LiveSeries(name, stream or column or "value", color, smooth=stream != "validation"))
    return ChartPlan(
        key=column,
        title=title_metric(column)
        if len(column) <= _LONG_NAME and _PLAIN_NAME.fullmatch(column)
        else column or "(no name)",
        unit="ratio" if is_share(column) else None,
        series=tuple(series),
    )


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts "layer2" before "layer10"."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"([0-9]{1,18})", name)]


def _stream_rank(name: str) -> tuple[int, str]:
    stream = split_name(name)[0]
    return {"train": 0, "validation": 1}.get(stream, 2), stream


def _machine_series(column: str, label: str, color: str) -> LiveSeries:
    # A load that is sampled each second becomes a band of noise after some hours. People look for its average.
    return LiveSeries(f"system/{column}", label, color, smooth=column.endswith("_percent"))


def _machine_chart(
    key: str, title: str, unit: str, *series: LiveSeries, y_range: tuple[float | None, float | None] = (0, None)
) -> ChartPlan:
    return ChartPlan(key=f"system//{key}", title=title, series=series, unit=unit, by_time=True, y_range=y_range)
