"""The plan of a run's charts, and its story, as the browser gets them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from relight.metrics.file_format import MetricHeader, encode_header, metric_file_name
from relight.runs.records import Parent
from tests.app.sample_runs import SampleRun, make_run
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import log_rows
from tests.app.server.metric_runs import make_run as make_bare_run


def _get(dashboard: ServedDashboard, run: str) -> dict[str, Any]:
    with dashboard.client() as client:
        answer = client.get("/api/board", params={"run": run})
        assert answer.status_code == 200
        board: dict[str, Any] = answer.json()
        return board


def test_the_board_has_the_charts_the_attempts_and_the_checkpoints(runs: Path, dashboard: ServedDashboard) -> None:
    layout = make_run(runs, SampleRun("x", status="crashed", step=600, attempts=2, checkpoints=5, gpus=1, reason="OOM"))
    board = _get(dashboard, layout.run_id)
    titles = [[chart["title"] for chart in group["charts"]] for group in board["groups"]]
    assert titles == [["Loss", "Accuracy", "Learning rate"], ["CPU", "Memory", "GPU 0", "GPU 0 memory"]]
    assert [(edge["kind"], edge["attempt"], edge["step"]) for edge in board["edges"]] == [
        ("crash", 1, 300), ("resume", 2, 260), ("crash", 2, 600),
    ]  # fmt: skip
    assert board["edges"][-1]["text"] == "Attempt 2 crashed at step 600: OOM"
    dots = board["checkpoints"]
    assert len(dots) == 5 and [dot["best"] for dot in dots].count(True) == 1 and dots[0]["pinned"]
    assert board["steps_per_epoch"] == 100 and board["began_s"] < board["ended_s"]
    assert board["origin"] is None and board["resume_refusal"] is None


def test_a_branch_names_the_run_whose_curves_it_continues(runs: Path, dashboard: ServedDashboard) -> None:
    parent = make_run(runs, SampleRun("the parent"))
    child = make_run(runs, SampleRun("child", parent=Parent(run=parent.run_id, step=400, sequence=1)))
    assert _get(dashboard, child.run_id)["origin"] == {"run": parent.run_id, "name": "the parent", "step": 400}
    fresh = make_run(runs, SampleRun("c", parent=Parent(run=parent.run_id, step=400, sequence=1, weights_only=True)))
    lost = make_run(runs, SampleRun("d", parent=Parent(run="gone", step=400, sequence=1)))
    assert _get(dashboard, fresh.run_id)["origin"] is None and _get(dashboard, lost.run_id)["origin"] is None


def test_the_same_board_is_sent_once(runs: Path, dashboard: ServedDashboard) -> None:
    layout = make_bare_run(runs)
    log_rows(layout, [(1, {"loss": 1.0})])
    with dashboard.client() as client:
        first = client.get("/api/board", params={"run": layout.run_id})
        again = {"If-None-Match": first.headers["ETag"]}
        assert client.get("/api/board", params={"run": layout.run_id}, headers=again).status_code == 304
        log_rows(layout, [(1, {"loss": 1.0})], stream="validation")
        deadline = time.monotonic() + 10
        while (changed := client.get("/api/board", params={"run": layout.run_id}, headers=again)).status_code == 304:
            assert time.monotonic() < deadline, "a new metric is in the plan once what was shared is too old"
        assert "validation/loss" in changed.text


def test_metrics_of_any_name_have_a_chart(runs: Path, dashboard: ServedDashboard) -> None:
    layout = make_bare_run(runs)
    odd = ("acc__top5", "a/b", "a__/", "", "a\nb", "<b>", "x" * 10_000, "__", "$x$", "**x**", "x" * 300)
    header = MetricHeader("train", 1, odd)
    record = header.record_struct().pack(1, time.time(), *range(len(odd)))
    layout.metrics.mkdir(exist_ok=True)
    (layout.metrics / metric_file_name("train", attempt=1, part=9)).write_bytes(encode_header(header) + record)
    groups = _get(dashboard, layout.run_id)["groups"]
    drawn = {series["name"] for group in groups for chart in group["charts"] for series in chart["series"]}
    assert drawn == {f"train/{name}" for name in odd}


@pytest.mark.parametrize("run", ["", "missing", "..", "a/b"])
def test_a_run_that_is_not_there_is_not_found(dashboard: ServedDashboard, run: str) -> None:
    with dashboard.client() as client:
        assert client.get("/api/board", params={"run": run}).status_code == 404


def test_a_damaged_run_says_so(runs: Path, dashboard: ServedDashboard) -> None:
    layout = make_bare_run(runs)
    layout.record.write_text("{")
    with dashboard.client() as client:
        assert client.get("/api/board", params={"run": layout.run_id}).status_code == 409
