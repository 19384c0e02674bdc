"""The fields of a task as a form, and the command that does the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from relight.runs.records import TaskReference
from relight.tasks.config import Group
from relight.tasks.fields import ConfigField, describe_bounds
from relight_app.formats import describe_option
from relight_app.markup import Markup, tag

GROUPS: tuple[str, ...] = get_args(Group)
_OPEN_GROUPS = GROUPS[:2]
"""The groups of the task and its optimization; the others are folded."""
_LABELS = {
    "lr": "Learning rate", "cache_mb": "Cache (MB)", "max_loss_s": "Max. loss (s)",
    "max_overhead": "Max. overhead (share)", "checkpoint_every_s": "Fixed interval (s)",
    "checkpoint_every_steps": "Fixed interval (steps)",
}  # fmt: skip
BUSY_DESCRIBING = tag(
    "p", tag("span", class_="spinner", aria_hidden="true"), " Importing the file in a separate process, which "
    "takes a few seconds.", class_="sub whole while-busy", role="status",
)  # fmt: skip
"""What a form that describes a task shows from the press until the answer."""


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
    """Return the field's help, its bounds and its command line option, as text."""
    bounds = describe_bounds(field) if field.type in ("int", "float") else ""
    parts = [field.help.rstrip("."), bounds[:1].upper() + bounds[1:], f"--set {field.name}=…"]
    return ". ".join(part for part in parts if part)


def field_text(value: Any) -> str:
    """Return a value as the text of its field, which `--set` also takes; "" for None."""
    return "" if value is None else describe_option(value) if value != "" else ""


def name_task(task: TaskReference) -> str:
    """Return what a person types to name the task: "digits", "/home/ada/train.py:Spiral", "/home/ada/train.py"."""
    if task.path is None:
        return task.name
    return f"{task.path}:{task.class_name}" if task.class_name else task.path


def build_fields(fields: Iterable[ConfigField], given: Mapping[str, Any], *, implied: Mapping[str, Any]) -> Markup:
    """Build one field for each option, in groups. They start with the `given` values, else with the defaults.

    `implied` has the values that the action takes for options that are left out: the browser sends the others, and
    marks them.
    """
    groups = []
    for group, members in group_fields(fields).items():
        built = tag("div", [_build_field(field, given, implied) for field in members], class_="fields")
        if group in _OPEN_GROUPS:
            groups.append(tag("fieldset", tag("legend", group), built, class_="card body", data_key=group))
        else:
            groups.append(tag("details", tag("summary", group), built, class_="card body", data_key=group))
    return tag("div", groups, class_="stack")


def build_text_field(
    label: str,
    name: str,
    *,
    value: str = "",
    hint: str = "",
    placeholder: str = "",
    only: str | None = None,
    hidden: bool = False,
    wide: bool = False,
    **attributes: object,
) -> Markup:
    """Build a field for one line of text. It counts, and is seen, only when the field that `only` names is so."""
    box = tag("input", type="text", name_=name, value=value, placeholder=placeholder, title=hint or None,
              autocomplete="off", spellcheck="false", **attributes)  # fmt: skip
    class_ = "field wide" if wide else "field"
    return tag(
        "label", tag("span", label), box, class_=class_, data_key=name, data_only=only, hidden=hidden or None
    )  # fmt: skip


def _build_field(field: ConfigField, given: Mapping[str, Any], implied: Mapping[str, Any]) -> Markup:
    value = field_text(given.get(field.name, field.default))
    label = f"label-{field.name}"
    default = field_text(implied.get(field.name, field.default))
    if given.get(field.name, field.default) is None and default:
        value = "none"
    attributes: dict[str, Any] = {
        "name_": f"config.{field.name}", "title": explain_field(field), "data_mark": True, "aria_labelledby": label,
        "data_default": None if field.required else default,
        "data_send_empty": (field.type in ("str", "path") and default != "") or None,
    }  # fmt: skip
    choices = [field_text(one) for one in field.choices] if field.type == "choice" else ["true", "false"]
    if field.type in ("choice", "bool"):
        words = {"true": "Yes", "false": "No"} if field.type == "bool" else {}
        options = [tag("option", words.get(one, one), value=one, selected=one == value) for one in choices]
        box = tag("select", options, **attributes)
    else:
        number = {"int": "numeric", "float": "decimal"}.get(field.type)
        box = tag("input", type="text", value=value, placeholder=default, inputmode=number, autocomplete="off",
                  spellcheck="false", **attributes)  # fmt: skip
    was = tag("span", f"changed, was {default or 'none'}", class_="was sub")
    return tag(
        "label", tag("span", label_field(field), class_="clip", id=label), box, was, class_="field", data_key=field.name
    )


def build_command(
    task: str,
    changed: Mapping[str, Any],
    *,
    name: str = "",
    max_restarts: int = 0,
    mirror: str | None = None,
    nproc: str = "",
    gpus: str = "",
    place: Sequence[str] = (),
    arguments: str = "",
) -> str:
    """Return the equivalent command; `arguments` are those of a script, as the person typed them."""
    parts = ["relight", "run", task]
    parts += _assign(changed)
    if name:
        parts += ["--name", name]
    if max_restarts:
        parts += ["--restarts", str(max_restarts)]
    if nproc:
        parts += ["--nproc", nproc]
    if gpus:
        parts += ["--gpus", gpus]
    parts += place
    if mirror is not None:
        parts += ["--mirror", mirror]
    command = " ".join(shlex.quote(part) for part in parts)
    return f"{command} -- {arguments.strip()}" if arguments.strip() else command


def name_place(on: str | None, nodes: int | None, sbatch: str | list[str] | None) -> list[str]:
    """Return the options that say where a run trains; None is left out."""
    parts = ["--on", on] if on else []
    if nodes is not None:
        parts += ["--nodes", str(nodes)]
    if sbatch is not None:
        parts += ["--sbatch", sbatch if isinstance(sbatch, str) else shlex.join(sbatch)]
    return parts


def build_branch_command(
    run: str,
    step: int,
    changed: Mapping[str, Any],
    *,
    name: str = "",
    weights_only: bool = False,
    nproc: str = "",
    place: Sequence[str] = (),
    arguments: str | None = None,
) -> str:
    """Return the equivalent command; `arguments` are those of a script, or None when they are unchanged."""
    parts = ["relight", "branch", run, "--from", str(step)]
    parts += _assign(changed)
    if weights_only:
        parts.append("--weights-only")
    if name:
        parts += ["--name", name]
    if nproc:
        parts += ["--nproc", nproc]
    parts += place
    command = " ".join(shlex.quote(part) for part in parts)
    return command if arguments is None else f"{command} -- {arguments.strip()}"


def _assign(changed: Mapping[str, Any]) -> list[str]:
    assignments = (f"{key}={'' if value == '' else describe_option(value)}" for key, value in changed.items())
    return [part for assignment in assignments for part in ("--set", assignment)]
