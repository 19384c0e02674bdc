"""The fields of a task's form, for every built-in task, and the equivalent command."""

from __future__ import annotations

import shlex

import pytest

from relight.runs.records import TaskReference
from relight.tasks.built_in import BUILTIN_TASKS
from relight.tasks.fields import ConfigField
from relight.tasks.parsing import parse_config
from relight.tasks.reference import TaskDescription, list_tasks
from relight_app.parts.forms import (
    build_branch_command,
    build_command,
    build_fields,
    explain_field,
    group_fields,
    label_field,
    name_task,
)
from tests.app.parts.shown import Element, read

TASKS = list_tasks()


def _default(field: Element) -> str | None:
    return field.attributes.get("data-default")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_texts_of_the_untouched_form_are_valid_and_mean_the_defaults(task: TaskDescription) -> None:
    config_class = BUILTIN_TASKS[task.name].config_class
    values = {
        name.removeprefix("config."): text
        for name, text in read(build_fields(task.fields, {}, implied={})).fields().items()
    }
    assert set(values) == {field.name for field in task.fields}
    required = {"data": "/data/pictures"} if task.name == "images" else {}
    filled = {name: text for name, text in values.items() if text} | required
    assert parse_config(config_class, filled) == parse_config(config_class, required)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_only_what_is_changed_is_sent(task: TaskDescription) -> None:
    form = read(build_fields(task.fields, {}, implied={}))
    for field in task.fields:
        (box,) = [one for one in form.walk() if one.attributes.get("name") == f"config.{field.name}"]
        shown = form.fields()[f"config.{field.name}"]
        assert _default(box) == (None if field.required else shown), "the browser sends what differs from this"


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


def test_a_form_starts_with_the_given_values_and_remembers_what_leaving_them_out_means() -> None:
    fields = [
        ConfigField(name="lr", type="float", default=0.003),
        ConfigField(name="flip", type="bool", default=True),
        ConfigField(name="mode", type="choice", default="a", choices=("a", "b")),
        ConfigField(name="seed", type="int", default=1),
    ]
    form = read(build_fields(fields, {"lr": 0.1 + 0.2, "flip": False, "mode": "b"}, implied={"lr": 0.5}))
    assert form.fields() == {
        "config.lr": "0.30000000000000004", "config.flip": "false", "config.mode": "b", "config.seed": "1",
    }  # fmt: skip
    defaults = {one.attributes["name"]: _default(one) for one in form.walk() if one.attributes.get("name")}
    assert defaults == {"config.lr": "0.5", "config.flip": "true", "config.mode": "a", "config.seed": "1"}


def test_a_value_of_none_is_written_out_where_an_empty_field_means_something_else() -> None:
    field = ConfigField(name="limit", type="int", default=3, nullable=True)
    assert read(build_fields([field], {"limit": None}, implied={})).fields() == {"config.limit": "none"}
    assert read(build_fields([field], {"limit": None}, implied={"limit": None})).fields() == {"config.limit": ""}


def test_a_required_field_is_always_sent_and_only_a_text_that_may_be_empty_is_sent_empty() -> None:
    fields = [
        ConfigField(name="data", type="path", required=True),
        ConfigField(name="note", type="str", default="x"),
        ConfigField(name="epochs", type="int", default=3),
    ]
    form = read(build_fields(fields, {}, implied={}))
    boxes = {one.attributes["name"]: one for one in form.find_all("input")}
    assert _default(boxes["config.data"]) is None
    assert [name for name, box in boxes.items() if "data-send-empty" in box.attributes] == ["config.note"]


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


def test_the_command_of_a_branch_survives_a_shell_and_keeps_unchanged_arguments() -> None:
    line = build_branch_command("digits-k3f9", 40, {"lr": 3e-4, "note": ""}, name="a b", weights_only=True)
    assert shlex.split(line) == [
        "relight", "branch", "digits-k3f9", "--from", "40", "--set", "lr=0.0003", "--set", "note=",
        "--weights-only", "--name", "a b",
    ]  # fmt: skip
    assert build_branch_command("x", 1, {}, arguments="--lr 1e-4") == "relight branch x --from 1 -- --lr 1e-4"
