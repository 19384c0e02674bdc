"""The comparison of runs as the browser gets it: small, exact in its numbers, and quick the second time."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, write_record
from relight.runs.records import RunRecord
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import log_rows, make_run


def _make(runs: Path, name: str, config: dict[str, Any], rows: list[tuple[int, dict[str, float]]]) -> RunLayout:
    layout = make_run(runs, name)
    record = read_record(layout.record, RunRecord)
    write_record(layout.record, msgspec.structs.replace(record, config=config))
    log_rows(layout, rows)
    return layout


def _compare(dashboard: ServedDashboard, *layouts: RunLayout, **query: Any) -> tuple[dict[str, Any], list[Any], int]:
    """Return the header, the lines as arrays (x, y), and the size of the body."""
    with dashboard.client() as client:
        ids = ",".join(layout.run_id for layout in layouts)
        answer = client.get("/api/compare", params={"ids": ids, **query})
    assert answer.status_code == 200, answer.text
    body = answer.content
    (length,) = struct.unpack_from("<I", body)
    header = json.loads(body[4 : 4 + length])
    lines, offset = [], 4 + length
    for facts in header["lines"]:
        count = facts["points"]
        x = np.frombuffer(body, "<f8", count, offset)
        y = np.frombuffer(body, "<f4", count, offset + 8 * count)
        lines.append((x, y))
        offset += 8 * count + 8 * math.ceil(count / 2)
    assert offset == len(body)
    return header, lines, len(body)


def test_runs_are_compared_by_bests_finals_curves_and_options(runs: Path, dashboard: ServedDashboard) -> None:
    rows = [(step, {"loss": abs(step - 40) / 10 + 0.123456789, "accuracy": step / 50}) for step in range(1, 51)]
    first = _make(runs, "first", {"lr": 0.1, "seed": 1, "model": {"depth": 2}}, rows)
    second = _make(runs, "second", {"lr": 0.2, "seed": 1, "model": {"depth": 2}}, rows[:30])
    header, lines, _ = _compare(dashboard, first, second, name=["train/loss", "train/accuracy"])
    assert [(run["run"], run["name"], run["config"]) for run in header["runs"]] == [
        (first.run_id, "first", {"lr": 0.1}), (second.run_id, "second", {"lr": 0.2}),
    ]  # fmt: skip
    assert header["differing"] == ["lr"] and header["equal"] == 2
    assert [(metric["name"], metric["higher_is_better"]) for metric in header["metrics"]] == [
        ("train/loss", False), ("train/accuracy", True),
    ]  # fmt: skip
    loss, accuracy = header["lines"][:2]
    assert (loss["best"], loss["best_step"], loss["last"], loss["last_step"]) == (0.123456789, 40, 1.123456789, 50)
    assert (accuracy["best_step"], accuracy["last"]) == (50, 1.0)
    np.testing.assert_array_equal(lines[0][0], range(1, 51))
    np.testing.assert_allclose(lines[0][1], [row["loss"] for _, row in rows], rtol=1e-6)


def test_a_step_that_was_trained_again_counts_once(runs: Path, dashboard: ServedDashboard) -> None:
    layout = make_run(runs)
    log_rows(layout, [(step, {"loss": 1.0}) for step in range(1, 11)])
    log_rows(layout, [(step, {"loss": 2.0}) for step in range(6, 13)], attempt=2)
    _, ((x, y),), _ = _compare(dashboard, layout)
    assert x.tolist() == list(range(1, 13)) and y.tolist() == [1.0] * 5 + [2.0] * 7


def test_new_rows_are_in_the_next_answer(runs: Path, dashboard: ServedDashboard) -> None:
    layout = make_run(runs)
    log_rows(layout, [(1, {"loss": 1.0})])
    assert _compare(dashboard, layout)[0]["lines"][0]["last_step"] == 1
    log_rows(layout, [(2, {"loss": math.nan})], attempt=2)
    facts = _compare(dashboard, layout)[0]["lines"][0]
    assert (facts["last_step"], facts["last"], facts["best"]) == (2, None, 1.0)


def test_runs_that_are_not_there_are_named(runs: Path, dashboard: ServedDashboard) -> None:
    layout = make_run(runs)
    with dashboard.client() as client:
        answer = client.get("/api/compare", params={"ids": f"gone,{layout.run_id}"})
        header = json.loads(answer.content[4 : 4 + struct.unpack_from("<I", answer.content)[0]])
        assert header["missing"] == ["gone"] and len(header["runs"]) == 1 and header["lines"] == []
        for query in ({}, {"ids": ""}, {"ids": ",".join(map(str, range(51)))}, {"ids": "a", "smoothing": "x"}):
            assert client.get("/api/compare", params=query).status_code == 400
        assert client.get("/api/compare", params={"ids": "a", "name": [str(i) for i in range(9)]}).status_code == 400


@pytest.mark.thorough
def test_twenty_long_runs_stay_small_and_keep_their_spikes(runs: Path, dashboard: ServedDashboard) -> None:
    layouts = []
    for number in range(20):
        layout = make_run(runs, f"long {number}")
        rows = [(step, {"loss": 1 / step + number, "accuracy": step / 20_000}) for step in range(1, 20_001)]
        rows[12_345][1]["loss"] = 99.0
        log_rows(layout, rows)
        layouts.append(layout)
    header, lines, size = _compare(dashboard, *layouts, name=["train/loss", "train/accuracy"])
    _, ((x, _), *_), _ = _compare(dashboard, layouts[0], name="train/loss", **{"from": 5_000, "to": 5_200})
    assert {*range(5_000, 5_201)} <= {*x.tolist()}, "every step of a zoomed range"
    assert size <= 300_000 and len(header["lines"]) == 40
    assert all(
        y.max() == 99.0 for facts, (_, y) in zip(header["lines"], lines, strict=True) if "loss" in facts["metric"]
    )
