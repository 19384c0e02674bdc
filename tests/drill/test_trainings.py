"""The plan for the two trainings of a drill."""

from __future__ import annotations

from typing import Any, Literal

from relight.drill.trainings import DrillPlan, plan_drill
from relight.runs.records import PreparedTask, TaskReference


def plan(config: dict[str, Any], *, steps: int, kind: Literal["builtin", "script"] = "builtin") -> DrillPlan:
    return plan_drill(PreparedTask(TaskReference(kind=kind, name="x"), config), steps=steps, timeout_s=1.0)


def test_the_plan_trains_little_saves_often_and_keeps_all() -> None:
    config = plan({"max_steps": 0, "lr": 0.1, "checkpoint_every_s": 30.0}, steps=40).task.config
    assert config["max_steps"] == 40
    assert (config["checkpoint_every_s"], config["checkpoint_every_steps"]) == (0.0, 11)
    assert config["keep_latest"] >= 40 // 11 + 1
    assert config["lr"] == 0.1
    assert plan({"max_steps": 9}, steps=40).checkpoint_every_steps == 3
    assert plan({"max_steps": 9}, steps=40).max_steps == 9
    assert plan({}, steps=3).checkpoint_every_steps == 1


def test_a_script_gets_a_seed_and_its_own_settings_win() -> None:
    config = plan({"relight.keep_latest": 3, "lr": 0.1}, steps=40, kind="script").task.config
    assert config == {
        "relight.seed": 0, "relight.max_steps": 40, "relight.checkpoint_every_s": 0.0,
        "relight.checkpoint_every_steps": 11, "relight.keep_latest": 3, "lr": 0.1,
    }  # fmt: skip
