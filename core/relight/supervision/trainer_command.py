"""What the supervisor runs as the trainer of a run, and in which folder."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from relight.errors import RelightError
from relight.runs.layout import RunLayout
from relight.runs.records import RunRecord, TaskReference


@dataclass(frozen=True)
class TrainerCommand:
    """The arguments of the process, and the folder it works in (None: the supervisor's own)."""

    arguments: tuple[str, ...]
    folder: Path | None = None


def build_trainer_command(layout: RunLayout, attempt: int, record: RunRecord) -> TrainerCommand:
    """Build the command that trains attempt `attempt` of the run; relative paths mean what they meant at the launch.

    A script is run as its person would run it; how it joins its run it learns from the environment. Raises
    `RelightError` when script, folder or interpreter are not there any more.
    """
    folder = record.task.working_folder
    if record.task.kind == "script":
        check_script(record.task)
        return TrainerCommand(_script_arguments(record.task), Path(folder) if folder else None)
    # -P: what lies in the current folder must not stand in for modules of ours. The task's own folder comes later.
    return TrainerCommand(
        arguments=(sys.executable, "-P", "-m", "relight.training", str(layout.folder), str(attempt)),
        folder=Path(folder) if folder and Path(folder).is_dir() else None,
    )


def check_script(task: TaskReference) -> None:
    """Raise `RelightError` when a script cannot be started where it was."""
    if task.path is None or not Path(task.path).is_file():
        raise RelightError(
            f"The script {task.path or task.name} is not there: put it back, or launch it from where it is now."
        )
    if task.working_folder and not Path(task.working_folder).is_dir():
        raise RelightError(
            f"The folder {task.working_folder} is not there, in which {task.name} was launched: make it again, or "
            "launch the script anew."
        )
    if task.python is not None and not os.access(task.python, os.X_OK):
        raise RelightError(
            f"The interpreter {task.python} of {task.name} is not there: put it back, or launch the script anew with "
            "another --python."
        )


def _script_arguments(task: TaskReference) -> tuple[str, ...]:
    python = task.python or sys.executable
    what = ("-m", task.module) if task.module else (str(task.path),)
    return (python, *what, *task.arguments)
