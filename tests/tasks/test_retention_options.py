"""The retention options of a config become the store's policy, for tasks and for scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.checkpoints.retention import BestRule, RetentionPolicy
from relight.checkpoints.store import CheckpointStore
from relight.errors import ConfigError, UsageError
from relight.runs.catalog import create_run
from relight.runs.layout import RunLayout
from relight.runs.record_file import write_record
from relight.runs.records import Objective, PreparedTask, ScriptRecord, TaskReference
from relight.tasks.config import TaskConfig
from relight.tasks.parsing import parse_config
from relight.tasks.retention_options import plan_run_retention, read_retention
from tests.checkpoints.snapshots import make_snapshot


def test_the_default_keeps_the_newest_two_and_the_best() -> None:
    policy = read_retention({"epochs": 3}, higher_is_better=False)
    assert policy == RetentionPolicy(newest=2, best=(BestRule(higher_is_better=False),))
    assert policy == read_retention(TaskConfig(), higher_is_better=False)


def test_every_retention_rule_can_be_set() -> None:
    set_so = [
        "keep_latest=4",
        "keep_best=3",
        "keep_best_by=loss:min, train/lr:max:2",
        "keep_every_steps=1000",
        "keep_every_hours=0.5",
    ]
    assert read_retention(parse_config(TaskConfig, set_so), higher_is_better=True) == RetentionPolicy(
        newest=4,
        best=(BestRule(count=3), BestRule("validation/loss", False), BestRule("train/lr", True, 2)),
        every_steps=1000,
        every_hours=0.5,
    )


@pytest.mark.parametrize("text", ["loss", "loss:least", ":min", "loss:min:0", "loss:min:two", "loss:min:1:2", "a\nb"])
def test_a_rule_that_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="such as validation/loss:min") as refused:
        parse_config(TaskConfig, {"keep_best_by": text})
    assert "\n" not in str(refused.value)


def make_run(folder: Path, *, kind: str, config: dict[str, object]) -> RunLayout:
    layout = create_run(
        folder,
        PreparedTask(TaskReference(kind=kind, name="x"), config, Objective(higher_is_better=False)),  # type: ignore[arg-type]
    ).layout
    store = CheckpointStore(layout.checkpoints)
    for step in range(1, 7):
        store.mark_verified(store.commit(*make_snapshot(step, score=float(step))))
    return layout


def test_a_plan_follows_the_runs_config_and_the_changes_tried(tmp_path: Path) -> None:
    layout = make_run(tmp_path, kind="builtin", config={"keep_latest": 3})
    assert [info.step for info, _ in plan_run_retention(layout).kept] == [1, 4, 5, 6], "the lowest score is the best"
    assert [info.step for info, _ in plan_run_retention(layout, {"keep_latest": "2"}).kept] == [1, 5, 6]
    with pytest.raises(UsageError, match="Did you mean 'keep_latest'"):
        plan_run_retention(layout, {"keep_lates": "2"})


def test_a_scripts_plan_follows_the_options_of_init_and_not_the_scripts_config(tmp_path: Path) -> None:
    layout = make_run(tmp_path, kind="script", config={})
    assert len(plan_run_retention(layout).kept) == 3
    layout.attempt(1).folder.mkdir(exist_ok=True)
    write_record(
        layout.attempt(1).script,
        ScriptRecord(config={"keep_latest": "all"}, higher_is_better=True, settings={"keep_latest": 4}),
    )
    assert [info.step for info, _ in plan_run_retention(layout).kept] == [3, 4, 5, 6]
