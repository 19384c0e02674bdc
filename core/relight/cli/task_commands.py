"""`tasks`: list tasks, or the options of one task with their defaults, bounds and help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from relight.cli.options import TRAINING, JsonOption, examples
from relight.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from relight.tasks.fields import ConfigField
    from relight.tasks.reference import TaskDescription


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "tasks",
        rich_help_panel=TRAINING,
        epilog=examples("relight tasks", "relight tasks digits", "relight tasks spiral.py:Spiral"),
    )(tasks)


def tasks(
    task: Annotated[
        str | None,
        typer.Argument(metavar="TASK", help="Task whose options to list.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the built-in tasks, or the options of one task.

    Options are set with `--set`. Each is listed with its default, its help and its bounds.
    """
    from relight.tasks.reference import describe_task, list_tasks, resolve_task

    if task is not None:
        described = describe_task(resolve_task(task))
        if json:
            say_json({**_facts(described), "options": described.fields})
        else:
            _say_options(described)
        return
    listed = list_tasks()
    if json:
        say_json([_facts(entry) for entry in listed])
        return
    say_table(("TASK", "DESCRIPTION"), [(entry.name, entry.summary) for entry in listed])
    say()
    say("Options of a task: relight tasks TASK. Train a task of your own: relight run FILE.py:Class")


def _facts(task: TaskDescription) -> dict[str, Any]:
    return {
        "name": task.name,
        "title": task.title,
        "summary": task.summary,
        "best_metric": task.objective.metric,
        "higher_is_better": task.objective.higher_is_better,
    }


def _say_options(task: TaskDescription) -> None:
    better = "highest" if task.objective.higher_is_better else "lowest"
    say(f"{task.title}: {task.summary}" if task.summary else task.title)
    say(f"Best is the {better} {task.objective.metric}.")
    width = max((len(_word_assignment(option)) for option in task.fields), default=0)
    group = None
    for option in sorted(task.fields, key=lambda option: option.group != "Task"):
        if option.group != group:
            group = option.group
            say()
            say(group)
        say(f"  {_word_assignment(option).ljust(width)}  {_word_help(option)}")


def _word_assignment(option: ConfigField) -> str:
    if option.required:
        return f"{option.name}=…"
    default = option.default
    return f"{option.name}={str(default).lower() if default is None or isinstance(default, bool) else default}"


def _word_help(option: ConfigField) -> str:
    from relight.tasks.fields import describe_bounds

    bounds = describe_bounds(option)
    kind = {"int": "whole number", "float": "number", "bool": "true or false", "path": "path"}.get(option.type, "")
    rule = ", ".join(filter(None, [kind, bounds, "required" if option.required else ""]))
    return f"{option.help} [{rule}]" if rule else option.help
