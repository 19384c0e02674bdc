"""Config fields as a form needs them: type, bounds, choices, default, help, group."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from relight import TaskConfig, option
from relight.tasks.built_in import BUILTIN_TASKS
from relight.tasks.fields import ConfigField, describe_bounds, describe_config, describe_schema


class Color(enum.Enum):
    red = "red"
    blue = "blue"


class Config(TaskConfig):
    """Every kind of field."""

    lr: float = option(0.5, "Overridden.", group="Optimization", gt=0, le=1)
    count: int = option(3, "A count.", ge=1, lt=10)
    maybe: int | None = option(None, "Can be left open.", ge=2)
    name: str = option("x", "A name.", pattern="^[a-z]$")
    flag: bool = option(True, "A switch.")
    mode: Literal["fast", "slow"] = option("fast", "A choice.")
    power: Literal[1, 2, 4] = option(2, "A choice of numbers.")
    color: Color = option(Color.red, "An enum.")
    only: Literal["one"] = option("one", "A choice of one.")
    folder: Path = option(Path("data"), "A folder.")
    sizes: tuple[int, ...] = option((1, 2), "A list.")
    table: dict[str, float] = option({"a": 1.0}, "A mapping.")
    needed: str = Field(description="No default.")


@pytest.fixture(scope="module")
def fields() -> dict[str, ConfigField]:
    return {field.name: field for field in describe_config(Config)}


def test_the_tasks_own_fields_come_first_in_the_order_of_definition(fields: dict[str, ConfigField]) -> None:
    names = list(fields)
    own = ["count", "maybe", "name", "flag", "mode", "power", "color", "only", "folder", "sizes", "table", "needed"]
    assert names[: len(own)] == own
    assert sorted(names[len(own) :]) == sorted(TaskConfig.model_fields)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("count", "int"), ("lr", "float"), ("maybe", "int"), ("name", "str"), ("flag", "bool"), ("mode", "choice"),
        ("power", "choice"), ("color", "choice"), ("only", "choice"), ("folder", "path"), ("sizes", "str"),
    ],
)  # fmt: skip
def test_each_field_has_the_type_that_a_form_draws(fields: dict[str, ConfigField], name: str, kind: str) -> None:
    assert fields[name].type == kind


def test_bounds_say_whether_they_are_inclusive(fields: dict[str, ConfigField]) -> None:
    assert describe_bounds(fields["lr"]) == "greater than 0 and at most 1"
    assert describe_bounds(fields["count"]) == "at least 1 and less than 10"
    assert describe_bounds(fields["maybe"]) == "at least 2"
    assert describe_bounds(fields["mode"]) == "one of fast, slow"
    assert describe_bounds(fields["flag"]) == ""
    assert describe_bounds(ConfigField(name="n", type="int", maximum=10**6)) == "at most 1000000"


def test_defaults_choices_and_help_are_kept(fields: dict[str, ConfigField]) -> None:
    assert fields["lr"].default == 0.5
    assert fields["lr"].help == "Overridden."
    assert fields["lr"].group == "Optimization"
    assert fields["power"].choices == (1, 2, 4)
    assert fields["color"].choices == ("red", "blue")
    assert fields["only"].choices == ("one",)
    assert fields["maybe"].nullable and fields["maybe"].default is None and not fields["maybe"].required
    assert not fields["count"].nullable
    assert fields["needed"].required
    assert fields["name"].pattern == "^[a-z]$"


def test_a_list_is_shown_as_json(fields: dict[str, ConfigField]) -> None:
    assert fields["sizes"].structured and fields["sizes"].default == "[1, 2]"
    assert fields["table"].structured and json.loads(fields["table"].default) == {"a": 1.0}


def test_a_schema_that_came_through_json_gives_the_same_fields() -> None:
    schema = json.loads(json.dumps(Config.model_json_schema()))
    assert describe_schema(schema) == describe_config(Config)


@pytest.mark.parametrize("name", BUILTIN_TASKS)
def test_every_field_of_a_built_in_task_has_help_and_every_number_has_bounds(name: str) -> None:
    for field in describe_config(BUILTIN_TASKS[name].config_class):
        assert field.help.endswith("."), field.name
        assert field.type not in ("int", "float") or field.minimum is not None, field.name
