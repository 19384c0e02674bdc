"""The launch form without a screen: labels, help and starting values of a task's fields, and the same as a command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from relight.tasks.fields import ConfigField, describe_bounds

_GROUPS = ("Task", "Optimisation", "Hardware", "Checkpoints")
_WORDS = {"lr": "Learning rate", "cache_mb": "Cache, MB", "checkpoint_every_s": "Checkpoint every, s"}


def group_fields(fields: Iterable[ConfigField]) -> dict[str, list[ConfigField]]:
    """Fields by group, in the order in which the form shows them; groups of the task's own come last."""
    groups: dict[str, list[ConfigField]] = {group: [] for group in _GROUPS}
    for field in fields:
        groups.setdefault(field.group, []).append(field)
    return {group: members for group, members in groups.items() if members}


def label_field(field: ConfigField) -> str:
    """The field's name as words: "Batch size" for `batch_size`."""
    words = field.name.replace("_", " ").strip()
    return _WORDS.get(field.name, words[:1].upper() + words[1:])


def explain_field(field: ConfigField) -> str:
    """The field's help, its bounds and its name on the command line."""
    bounds = describe_bounds(field) if field.type in ("int", "float") else ""
    parts = [field.help.rstrip("."), bounds[:1].upper() + bounds[1:], f"`--set {field.name}=…`"]
    return ". ".join(part for part in parts if part)


def first_value(field: ConfigField, *, given: Mapping[str, Any]) -> Any:
    """What the field starts with: the value of the run that is being repeated, else its default, of its own type."""
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
    """What one press of plus or minus adds: a tenth of the default's own order of magnitude, or one."""
    if field.type == "int":
        return 1
    size = abs(float(field.default or 0.0))
    return 10.0 ** (math.floor(math.log10(size)) if size > 0 else -2)


def changed_values(fields: Iterable[ConfigField], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that differ from their defaults; a field that was emptied has its default."""
    return {
        field.name: values[field.name]
        for field in fields
        if values.get(field.name) is not None and (field.required or values[field.name] != field.default)
    }


def build_command(
    task: str, changed: Mapping[str, Any], *, name: str = "", max_restarts: int = 0, arguments: str = ""
) -> str:
    """The command that launches the same on a terminal; `arguments` are a script's own, as they were typed."""
    parts = ["relight", "run", task]
    for key, value in changed.items():
        parts += ["--set", f"{key}={_write(value)}"]
    if name:
        parts += ["--name", name]
    if max_restarts:
        parts += ["--restarts", str(max_restarts)]
    command = " ".join(shlex.quote(part) for part in parts)
    return f"{command} -- {arguments.strip()}" if arguments.strip() else command


def changed_from(given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not as in `given`; a field that was emptied stays as it was, a text without words is none."""
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
    """The command that starts the same branch on a terminal; `arguments` of a script only where they were changed."""
    parts = ["relight", "branch", run, "--from", str(step)]
    for key, value in changed.items():
        parts += ["--set", f"{key}={_write(value)}"]
    if weights_only:
        parts.append("--weights-only")
    if name:
        parts += ["--name", name]
    command = " ".join(shlex.quote(part) for part in parts)
    return command if arguments is None else f"{command} -- {arguments.strip()}"


def show_value(value: Any) -> str:
    """A config's value as the screen says it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "nothing" if value in (None, "") else _write(value)


def _write(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
