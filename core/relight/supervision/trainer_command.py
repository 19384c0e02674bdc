"""The command that trains an attempt, and the folder it runs in."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from relight.errors import RelightError
from relight.runs.layout import RunLayout
from relight.runs.records import TaskReference


@dataclass(frozen=True)
class TrainerCommand:
    """The arguments of the process and its working folder (None: the supervisor's own)."""

    arguments: tuple[str, ...]
    folder: Path | None = None


def build_ranks_command(
    layout: RunLayout, attempt: int, task: TaskReference, *, nproc: int, nodes: int = 1, meeting: str = ""
) -> TrainerCommand:
    """Build the command that starts `nproc` ranks of attempt `attempt`: torchrun, with the interpreter of the task.

    For several nodes it is the command for each of them, and `meeting` is the host and port where they meet.

    Raises `RelightError` like `build_trainer_command`.
    """
    trainer = build_trainer_command(layout, attempt, task)
    python = (task.python if task.kind == "script" else None) or sys.executable
    start = (python, "-P", "-m", "relight.training.ranks.agent", str(layout.folder), str(attempt))
    return TrainerCommand((*start, str(nproc), str(nodes), meeting, *trainer.arguments), trainer.folder)


def build_trainer_command(layout: RunLayout, attempt: int, task: TaskReference) -> TrainerCommand:
    """Build the command that trains attempt `attempt`. Relative paths mean what they meant at the launch.

    A script is run the way you would run it; the environment tells it which run it belongs to. Raises `RelightError`
    when the script, its folder or its interpreter is missing.
    """
    folder = task.working_folder
    if task.kind == "script":
        check_script(task)
        return TrainerCommand(_script_arguments(task), Path(folder) if folder else None)
    # -P: files in the current folder must not shadow our modules. The trainer adds the task's own folder later.
    return TrainerCommand(
        arguments=(sys.executable, "-P", "-m", "relight.training", str(layout.folder), str(attempt)),
        folder=Path(folder) if folder and Path(folder).is_dir() else None,
    )


def check_script(task: TaskReference) -> None:
    """Raise `RelightError` when the script, its working folder or its interpreter is missing."""
    if task.path is None or not Path(task.path).is_file():
        raise RelightError(
            f"The script {task.path or task.name} is missing. Put it back, or launch a new run with its new path."
        )
    if task.working_folder and not Path(task.working_folder).is_dir():
        raise RelightError(
            f"{task.name} was launched in the folder {task.working_folder}, which is missing. Create it again, or "
            "launch the script again from another folder."
        )
    if task.python is not None and not os.access(task.python, os.X_OK):
        raise RelightError(
            f"{task.name} was launched with the interpreter {task.python}, which is missing. Put it back, or launch "
            "the script again with another --python."
        )


def _script_arguments(task: TaskReference) -> tuple[str, ...]:
    python = task.python or sys.executable
    target = ("-m", task.module) if task.module else (str(task.path),)
    return (python, *target, *task.arguments)
