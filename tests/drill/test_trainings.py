"""The plan for the trainings of a drill."""

from __future__ import annotations

from typing import Any, Literal

from relight.drill.trainings import DrillPlan, plan_drill
from relight.runs.records import DrillOrder, PreparedTask, TaskReference


def plan(config: dict[str, Any], *, steps: int, kind: Literal["builtin", "script"] = "builtin") -> DrillPlan:
    return plan_drill(PreparedTask(TaskReference(kind=kind, name="x"), config), steps=steps, timeout_s=1.0)


def test_the_plan_leaves_the_length_alone_saves_often_and_keeps_all() -> None:
    config = plan({"max_steps": 7, "lr": 0.1, "checkpoint_every_s": 30.0}, steps=100).task.config
    assert (config["max_steps"], config["lr"]) == (7, 0.1)
    assert (config["checkpoint_every_s"], config["checkpoint_every_steps"]) == (0.0, 11)
    assert config["keep_latest"] >= 100 // 11 + 3
    assert plan({}, steps=3).task.config["checkpoint_every_steps"] == 1


def test_a_long_training_is_ended_by_an_order_and_not_by_its_config() -> None:
    assert plan({}, steps=100).limit(DrillOrder(kill_step=3)) == DrillOrder(kill_step=3, end_step=100)


def test_a_script_gets_a_seed_and_its_own_settings_win() -> None:
    config = plan({"relight.keep_latest": 3, "lr": 0.1}, steps=100, kind="script").task.config
    assert config == {
        "relight.seed": 0, "relight.checkpoint_every_s": 0.0, "relight.checkpoint_every_steps": 11,
        "relight.keep_latest": 3, "lr": 0.1,
    }  # fmt: skip
