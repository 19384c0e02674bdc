"""The launch form without its widgets: labels, help and first values of a task's fields, and the equivalent command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from relight.runs.records import TaskReference
from relight.tasks.config import Group
from relight.tasks.fields import ConfigField, describe_bounds
from relight_app.formats import describe_option

GROUPS: tuple[str, ...] = get_args(Group)
_LABELS = {"lr": "Learning rate", "cache_mb": "Cache (MB)", "checkpoint_every_s": "Checkpoint interval (s)"}


def group_fields(fields: Iterable[ConfigField]) -> dict[str, list[ConfigField]]:
    """Return the fields by group, in the order of the form; groups that a task defines itself come last."""
    groups: dict[str, list[ConfigField]] = {group: [] for group in GROUPS}
    for field in fields:
        groups.setdefault(field.group, []).append(field)
    return {group: members for group, members in groups.items() if members}


def label_field(field: ConfigField) -> str:
    """Return the field's name as words: "Batch size" for `batch_size`."""
    words = field.name.replace("_", " ").strip()
    return _LABELS.get(field.name, words[:1].upper() + words[1:])


def explain_field(field: ConfigField) -> str:
    """Return the field's help, its bounds and its command line option, as Markdown."""
    bounds = describe_bounds(field) if field.type in ("int", "float") else ""
    parts = [field.help.rstrip("."), bounds[:1].upper() + bounds[1:], f"`--set {field.name}=…`"]
    return ". ".join(part for part in parts if part)


def first_value(field: ConfigField, *, given: Mapping[str, Any]) -> Any:
    """Return the value that the field starts with, in its own type: the given one, else its default."""
    value = given.get(field.name, field.default)
    if value is None:
        return None
    if field.type == "float":
        return float(value)
    if field.type == "int":
        return int(value)
    if field.type == "bool":
        return bool(value)
    return value if field.type == "choice" else str(value)


def step_of(field: ConfigField) -> float | int:
    """Return what the plus and minus buttons add: 1, or for a float the default's order of magnitude."""
    if field.type == "int":
        return 1
    size = abs(float(field.default or 0.0))
    return 10.0 ** (math.floor(math.log10(size)) if size > 0 else -2)


def changed_values(fields: Iterable[ConfigField], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from their defaults; an emptied field counts as its default."""
    return {
        field.name: values[field.name]
        for field in fields
        if values.get(field.name) is not None and (field.required or values[field.name] != field.default)
    }


def name_task(task: TaskReference) -> str:
    """Return what a person types to name the task: "digits", "/home/ada/train.py:Spiral", "/home/ada/train.py"."""
    if task.path is None:
        return task.name
    return f"{task.path}:{task.class_name}" if task.class_name else task.path


def build_command(
    task: str, changed: Mapping[str, Any], *, name: str = "", max_restarts: int = 0, arguments: str = ""
) -> str:
    """Return the equivalent command; `arguments` are those of a script, as the person typed them."""
    parts = ["relight", "run", task]
    parts += _assign(changed)
    if name:
        parts += ["--name", name]
    if max_restarts:
        parts += ["--restarts", str(max_restarts)]
    command = " ".join(shlex.quote(part) for part in parts)
    return f"{command} -- {arguments.strip()}" if arguments.strip() else command


def changed_from(given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from `given`; an emptied field counts as unchanged, and an empty text as None."""
    return {
        key: value
        for key, value in values.items()
        if key in given and value is not None and value != given[key] and not (value == "" and given[key] is None)
    }


def build_branch_command(
    run: str,
    step: int,
    changed: Mapping[str, Any],
    *,
    name: str = "",
    weights_only: bool = False,
    arguments: str | None = None,
) -> str:
    """Return the equivalent command; `arguments` are those of a script, or None when they are unchanged."""
    parts = ["relight", "branch", run, "--from", str(step)]
    parts += _assign(changed)
    if weights_only:
        parts.append("--weights-only")
    if name:
        parts += ["--name", name]
    command = " ".join(shlex.quote(part) for part in parts)
    return command if arguments is None else f"{command} -- {arguments.strip()}"


def _assign(changed: Mapping[str, Any]) -> list[str]:
    assignments = (f"{key}={'' if value == '' else describe_option(value)}" for key, value in changed.items())
    return [part for assignment in assignments for part in ("--set", assignment)]
