"""The list of runs and the config table have complete rows in any state, and their text cannot become HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from relight.overview.summary import DamagedRun, RunSummary, list_runs, summarize_run
from relight.runs.layout import RunLayout
from relight_app.tables import (
    build_config,
    build_damaged_runs,
    build_run_list,
    describe_progress,
    filter_runs,
    sort_runs,
)
from tests.app.sample_runs import SampleRun, make_run


@pytest.fixture
def running(tmp_path: Path) -> RunLayout:
    return make_run(tmp_path, SampleRun("busy", status="running", step=640, attempts=2, durable_lag=40))


def _list(*runs: RunSummary, curves: dict[str, tuple[str, Sequence[float]]] | None = None) -> str:
    return build_run_list(runs, curves=curves or {})


def test_a_running_row_says_progress_best_and_what_is_at_risk(running: RunLayout) -> None:
    run = summarize_run(running)
    row = _list(run)
    assert "640 / 1,200" in row
    assert "98.50 %" in row
    assert re.search(r"\d+(\.\d)? (s|min)[^<]*, 40 steps<", row)
    assert f'href="/run?id={run.run}"' in row
    assert 'aria-valuenow="53"' in row


@pytest.mark.parametrize("status", ["finished", "stopped", "crashed", "interrupted", "queued", "running"])
def test_every_status_is_a_word_and_not_only_a_color(tmp_path: Path, status: str) -> None:
    run = summarize_run(make_run(tmp_path, SampleRun("x", status=status, step=600)))
    if status != "queued":
        assert run.status == status
    assert f"{str(run.status).capitalize()}</span>" in _list(run)


def test_a_failure_to_save_replaces_the_work_at_risk(running: RunLayout) -> None:
    run = msgspec.structs.replace(summarize_run(running), saving_failure="The disk is full.")
    assert "Saving fails" in _list(run)


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    run = summarize_run(make_run(tmp_path, SampleRun("<script>alert(1)</script>", reason='"><img src=x>')))
    row = _list(run, curves={run.run: ("train/<b>", [2.0, 1.0])})
    assert "<script" not in row
    assert "<img" not in row
    assert "<b>" not in row


def test_live_runs_come_first_and_then_the_newest(tmp_path: Path) -> None:
    for name, status, age_s in (("old", "finished", 900), ("alive", "running", 500), ("new", "crashed", 10)):
        make_run(tmp_path, SampleRun(name, status=status, step=600, age_s=age_s))
    assert [run.name for run in sort_runs(list_runs(tmp_path).runs)] == ["alive", "new", "old"]


def test_search_takes_every_word_from_name_id_or_task(tmp_path: Path) -> None:
    make_run(tmp_path, SampleRun("resnet wide"))
    make_run(tmp_path, SampleRun("resnet deep", "stdlib-gpt", status="crashed", step=500))
    runs = list_runs(tmp_path).runs
    assert {run.name for run in filter_runs(runs, status=None, text="RESNET")} == {"resnet wide", "resnet deep"}
    assert [run.name for run in filter_runs(runs, status=None, text="gpt deep")] == ["resnet deep"]
    assert [run.name for run in filter_runs(runs, status="finished", text="")] == ["resnet wide"]
    assert filter_runs(runs, status="crashed", text="wide") == []


def test_progress_without_a_known_end_has_no_share(running: RunLayout) -> None:
    run = msgspec.structs.replace(summarize_run(running), steps_total=None, eta_s=None, epochs=None)
    assert describe_progress(run) == (None, "640 steps")
    assert "aria-valuenow" not in _list(run)


def test_a_config_marks_values_that_are_not_the_default() -> None:
    shown = build_config(
        {"lr": 0.002, "flip": True}, defaults={"lr": 0.001, "flip": True}, changes={"lr": (0.1, 0.002)}
    )
    assert "default 0.001" in shown
    assert shown.count("changed in this branch, was 0.1") == 1
    assert ">true<" in shown


def test_damaged_runs_are_named_with_their_reason() -> None:
    shown = build_damaged_runs([DamagedRun(run="a-1", path="/r/a-1", reason="'run.json' is <cut> short.")])
    assert "a-1" in shown
    assert "&lt;cut&gt; short." in shown
