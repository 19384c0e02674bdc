"""The config that all tasks share: valid defaults, and no values that JSON cannot hold."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from relight import TaskConfig, option
from relight.tasks.built_in import BUILTIN_TASKS
from relight.tasks.config import full_metric_name


@pytest.mark.parametrize("config_class", [TaskConfig, *(task.config_class for task in BUILTIN_TASKS.values())])
def test_the_defaults_are_valid_and_survive_json(config_class: type[TaskConfig]) -> None:
    config = config_class()
    assert config_class.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_json_cannot_hold_is_refused_even_in_subclasses(value: float) -> None:
    class Config(TaskConfig):
        temperature: float = option(1.0, "No bounds here.")

    with pytest.raises(ValidationError, match="finite"):
        Config(temperature=value)


def test_a_config_is_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TaskConfig().epochs = 3  # type: ignore[misc]


def test_a_default_out_of_its_own_bounds_is_refused() -> None:
    class Config(TaskConfig):
        width: int = option(0, "Wrong from the start.", ge=1)

    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Config()


def test_a_short_metric_name_means_the_validation_metric() -> None:
    assert full_metric_name("accuracy") == "validation/accuracy"
    assert full_metric_name("train/loss") == "train/loss"
    assert full_metric_name("val/loss") == "validation/val/loss"
