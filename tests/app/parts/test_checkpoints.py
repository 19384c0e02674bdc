"""The table of checkpoints: metrics, labels, why each is kept, and its menu."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relight.checkpoints.retention import RetentionPolicy, plan_retention
from relight.checkpoints.store import CheckpointStore
from relight.runs.layout import RunLayout
from relight_app.parts.checkpoints import build_checkpoints
from tests.app.sample_runs import SampleRun, make_run


@pytest.fixture
def running(tmp_path: Path) -> RunLayout:
    return make_run(tmp_path, SampleRun("busy", status="running", step=640, attempts=2, durable_lag=40, checkpoints=6))


def test_checkpoints_are_newest_first_with_labels_and_metrics(running: RunLayout) -> None:
    store = CheckpointStore(running.checkpoints)
    infos = store.list(higher_is_better=True).checkpoints
    table = build_checkpoints(infos, best_metric="validation/accuracy", resume_refusal=None, run="busy-abcd")
    steps = [int(step) for step in re.findall(r"Actions for step (\d+)", table)]
    assert steps == sorted((info.step for info in infos), reverse=True)
    assert table.count(">best<") == 1
    assert "98.50 %" in table
    assert "not verified yet" in table


def test_a_refused_resume_says_why_and_cannot_be_pressed(running: RunLayout) -> None:
    infos = CheckpointStore(running.checkpoints).list().checkpoints
    table = build_checkpoints(infos, best_metric=None, resume_refusal="Stop the run first.", run="busy-abcd")
    item = re.search(r"<button[^>]*>Resume from here.*?</button>", table)
    assert item is not None
    assert 'aria-disabled="true"' in item.group()
    assert "Stop the run first." in item.group()


def test_many_checkpoints_show_the_newest_and_say_how_many_are_left_out(running: RunLayout) -> None:
    infos = CheckpointStore(running.checkpoints).list().checkpoints
    table = build_checkpoints(infos, best_metric=None, resume_refusal=None, run="busy-abcd", limit=1)
    assert table.count("Actions for step") == 1
    assert f"{len(infos) - 1} older checkpoints not shown" in table


def test_each_checkpoint_says_whether_it_will_be_deleted_or_why_it_is_kept(running: RunLayout) -> None:
    infos = CheckpointStore(running.checkpoints).list().checkpoints
    plan = plan_retention(infos, RetentionPolicy())
    assert [info.step for info in plan.removed] == [200, 300], "the sample matches the sentence below"
    table = build_checkpoints(infos, best_metric=None, resume_refusal=None, run="busy-abcd", retention=plan)
    assert table.count("deleted next") == 2
    assert "After the next save, Relight deletes 2 checkpoints (steps 200, 300)" in table
    assert "among the newest, best" in table and ">pinned<" in table and ">not verified yet<" in table
    few = plan_retention(infos[-2:], RetentionPolicy())
    nothing = build_checkpoints(infos[-2:], best_metric=None, resume_refusal=None, run="busy-abcd", retention=few)
    assert "Nothing will be deleted." in nothing
    assert "Kept because" not in build_checkpoints(infos, best_metric=None, resume_refusal=None, run="busy-abcd")


def test_each_checkpoint_leads_to_a_branch(running: RunLayout) -> None:
    infos = CheckpointStore(running.checkpoints).list().checkpoints
    table = build_checkpoints(infos, best_metric=None, resume_refusal="Stop the run first.", run="busy-abcd")
    assert [int(step) for step in re.findall(r'href="/branch\?id=busy-abcd&amp;step=(\d+)"', table)] == [
        info.step for info in reversed(infos)
    ]
