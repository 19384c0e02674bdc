"""The fields of the launch form, for every built-in task, and the equivalent command."""

from __future__ import annotations

import shlex

import pytest

from relight.runs.records import TaskReference
from relight.tasks.built_in import BUILTIN_TASKS
from relight.tasks.fields import ConfigField
from relight.tasks.parsing import parse_config
from relight.tasks.reference import TaskDescription, list_tasks
from relight_app.launch_form import (
    build_command,
    changed_values,
    explain_field,
    first_value,
    group_fields,
    label_field,
    name_task,
    step_of,
)

TASKS = list_tasks()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_untouched_form_changes_nothing_and_is_valid(task: TaskDescription) -> None:
    values = {field.name: first_value(field, given={}) for field in task.fields}
    changed = changed_values(task.fields, values)
    assert changed == {}
    assert parse_config(BUILTIN_TASKS[task.name].config_class, changed) is not None


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_field_has_a_label_help_and_a_group(task: TaskDescription) -> None:
    grouped = [field for fields in group_fields(task.fields).values() for field in fields]
    assert sorted(field.name for field in grouped) == sorted(field.name for field in task.fields)
    for field in task.fields:
        assert label_field(field)
        assert field.help.rstrip(".") in explain_field(field)
        assert f"--set {field.name}=" in explain_field(field)


def test_help_says_the_bounds() -> None:
    field = next(field for field in TASKS[0].fields if field.name == "epochs")
    assert "At least 1 and at most 1000000" in explain_field(field)


def test_the_step_of_a_small_number_has_its_order_of_magnitude() -> None:
    assert step_of(ConfigField(name="lr", type="float", default=0.003)) == pytest.approx(0.001)
    assert step_of(ConfigField(name="x", type="float", default=0.0)) == pytest.approx(0.01)
    assert step_of(ConfigField(name="n", type="int", default=500)) == 1


def test_values_have_the_type_of_their_field() -> None:
    assert first_value(ConfigField(name="x", type="float", default=1), given={}) == 1.0
    assert isinstance(first_value(ConfigField(name="x", type="float", default=1), given={}), float)
    assert first_value(ConfigField(name="x", type="int", default=1), given={"x": 7}) == 7
    assert first_value(ConfigField(name="x", type="int", required=True), given={}) is None


def test_an_emptied_field_has_its_default_and_a_required_one_is_always_sent() -> None:
    plain, required = ConfigField(name="a", type="int", default=3), ConfigField(name="b", type="str", required=True)
    assert changed_values([plain, required], {"a": None, "b": "x"}) == {"b": "x"}
    assert changed_values([plain, required], {"a": 4, "b": None}) == {"a": 4}


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (TaskReference(kind="builtin", name="digits"), "digits"),
        (TaskReference(kind="file", name="a.py:A", path="/x/a.py", class_name="A"), "/x/a.py:A"),
        (TaskReference(kind="script", name="a.py", path="/x/a.py"), "/x/a.py"),
    ],
)
def test_the_name_of_a_task_is_what_a_person_types(task: TaskReference, name: str) -> None:
    assert name_task(task) == name


def test_the_command_survives_a_shell() -> None:
    line = build_command(
        "my file.py:T", {"lr": 3e-4, "flip": False, "data": "/a b/it's"}, name="x; rm -rf /", max_restarts=2
    )
    assert shlex.split(line) == [
        "relight", "run", "my file.py:T", "--set", "lr=0.0003", "--set", "flip=false", "--set", "data=/a b/it's",
        "--name", "x; rm -rf /", "--restarts", "2",
    ]  # fmt: skip


def test_a_float_in_the_command_keeps_every_digit() -> None:
    assert build_command("digits", {"lr": 0.1 + 0.2}) == "relight run digits --set lr=0.30000000000000004"
