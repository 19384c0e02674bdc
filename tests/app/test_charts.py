"""Small curves, and the choice of charts for a run."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relight.overview.summary import summarize_run
from relight_app.charts import (
    draw_sparkline,
    plan_board,
    plan_learning_charts,
    plan_machine_charts,
    thin_out,
)
from relight_app.parts.figures import plan_figures
from tests.app.sample_runs import SampleRun, make_run

LOGGED = [
    "system/cpu_share_percent", "system/gpu0_memory_bytes", "system/gpu0_process_memory_bytes",
    "system/gpu0_utilization_percent", "system/machine_cpu_percent", "system/memory_bytes", "train/accuracy",
    "train/loss", "train/lr", "validation/accuracy", "validation/loss", "validation/perplexity",
]  # fmt: skip


def test_loss_comes_first_the_best_metric_next_and_the_learning_rate_last() -> None:
    plans = plan_learning_charts(LOGGED, best_metric="validation/accuracy")
    assert [plan.title for plan in plans] == ["Loss", "Accuracy", "Perplexity", "Learning rate"]
    assert [series.name for series in plans[0].series] == ["train/loss", "validation/loss"]
    assert [plan.unit for plan in plans] == [None, "ratio", None, None]


def test_a_chart_appears_with_its_first_value() -> None:
    assert plan_board([], best_metric=None) == ()
    (group,) = plan_board(["train/loss"], best_metric=None)
    assert [plan.title for plan in group.charts] == ["Loss"]


def test_a_prefix_makes_a_group_in_natural_order() -> None:
    names = [f"train/grad/layer{number}.weight" for number in (10, 2, 1)] + ["train/loss", "validation/loss"]
    groups = plan_board([*names, "system/cpu_percent"], best_metric=None)
    assert [group.title for group in groups] == ["Training", "grad", "Machine"]
    assert [plan.title for plan in groups[1].charts] == [f"grad/layer{number}.weight" for number in (1, 2, 10)]


def test_each_curve_of_a_chart_has_its_own_color() -> None:
    (plan,) = plan_learning_charts([f"part{number}/loss" for number in range(30)], best_metric=None)
    assert len({series.color for series in plan.series}) == 30


@given(st.sets(st.text(max_size=12), max_size=8))
@example({"acc__top5", "a/b", "c/b", "a__/", "", "/", "//", "$x^2$", "**b**", "<b>x</b>", "x" * 300, "٣1", "9" * 400})
def test_metrics_with_any_names_have_a_chart_each(columns: set[str]) -> None:
    groups = plan_board([f"train/{column}" for column in columns], best_metric=None)
    drawn = [series.name for group in groups for plan in group.charts for series in plan.series]
    assert sorted(drawn) == sorted(f"train/{column}" for column in columns)
    assert all(plan.title for group in groups for plan in group.charts)


def test_each_card_that_was_there_gets_two_charts() -> None:
    assert [plan.title for plan in plan_machine_charts(LOGGED)] == ["CPU", "Memory", "GPU 0", "GPU 0 memory"]
    assert plan_machine_charts(["train/loss"]) == []
    assert all(plan.by_time for plan in plan_machine_charts(LOGGED))


def test_the_cards_of_several_ranks_share_two_charts_with_a_line_each() -> None:
    names = [f"system/gpu{card}_{column}" for card in range(3) for column in ("utilization_percent", "memory_bytes")]
    plans = plan_machine_charts(names, cards={0: "rank 0", 2: "rank 1"})
    assert [plan.title for plan in plans] == ["GPUs", "GPU memory of this run"]
    assert [series.label for series in plans[0].series] == ["GPU 0, rank 0", "GPU 2, rank 1"]
    assert [series.name for series in plans[1].series] == [
        "system/gpu0_process_memory_bytes", "system/gpu2_process_memory_bytes",
    ]  # fmt: skip
    assert len({series.color for series in plans[0].series}) == 2


def test_one_chosen_card_hides_the_charts_of_the_others() -> None:
    names = [f"system/gpu{card}_utilization_percent" for card in range(3)]
    assert [plan.title for plan in plan_machine_charts(names, cards={1: ""})] == ["GPU 1", "GPU 1 memory"]


def test_no_two_charts_share_a_key() -> None:
    keys = [plan.key for group in plan_board([*LOGGED, "train/cpu"], best_metric=None) for plan in group.charts]
    assert len(set(keys)) == len(keys)


@given(st.lists(st.floats(), max_size=80))
@example([1.7976931348623157e308, -9.9792015476736e291])
def test_any_values_are_drawn_inside_the_picture(values: list[float]) -> None:
    drawn = draw_sparkline(values, label="Loss <of> x")
    if sum(map(math.isfinite, values)) < 2:
        assert drawn == ""
        return
    svg = ET.fromstring(drawn)
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    for path in svg:
        for part in path.attrib["d"].replace("M", " ").replace("L", " ").replace("Z", " ").split("  "):
            for pair in zip(*[iter(part.split())] * 2, strict=True):
                assert 0 <= float(pair[0]) <= width
                assert 0 <= float(pair[1]) <= height


def test_a_gap_splits_the_line() -> None:
    svg = ET.fromstring(draw_sparkline([3, 2, math.nan, 1, 0], label="x"))
    assert svg[1].attrib["d"].count("M") == 2


def test_thinning_out_keeps_the_spike() -> None:
    values = np.ones(100_000)
    values[54_321] = 99.0
    thin = thin_out(values, points=48)
    assert len(thin) <= 48
    assert max(thin) == 99.0
    assert thin_out(values[:10], points=48) == [1.0] * 10


@pytest.mark.parametrize(
    ("status", "labels"),
    [
        ("running", ["Step", "Train loss", "Best validation accuracy", "Speed", "At risk now"]),
        ("crashed", ["Step", "Train loss", "Best validation accuracy", "Trained for", "Lost"]),
        ("finished", ["Step", "Train loss", "Best validation accuracy", "Trained for"]),
    ],
)
def test_the_figures_say_what_is_at_risk_only_while_something_is(
    tmp_path: Path, status: str, labels: list[str]
) -> None:
    layout = make_run(tmp_path, SampleRun("x", status=status, step=600 if status != "finished" else 1_200))
    assert [value.label for value in plan_figures(summarize_run(layout))] == labels
