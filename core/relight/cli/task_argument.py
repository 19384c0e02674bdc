"""Turns TASK and its options, as typed, into a task that can be launched. Errors are raised before a run exists."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from relight.errors import UsageError
from relight.runs.records import PreparedTask, TaskReference
from relight.tasks.reference import launch_script, resolve_module, resolve_task, validate_config


def prepare_task(
    text: str,
    assignments: Sequence[str],
    *,
    arguments: Sequence[str] = (),
    python: Path | None = None,
    is_module: bool = False,
) -> PreparedTask:
    """Find the task or script `text`, or the script in that module, and build its config.

    Raises a `RelightError` that is one sentence.
    """
    reference = resolve_module(text) if is_module else resolve_task(text)
    if reference.kind == "script":
        reference = launch_script(reference, arguments=arguments, python=python)
    else:
        _refuse_script_options(reference, arguments, python)
    return validate_config(reference, assignments)


def _refuse_script_options(reference: TaskReference, arguments: Sequence[str], python: Path | None) -> None:
    if arguments:
        raise UsageError(
            f"{reference.name} takes no arguments (got {' '.join(arguments)!r}). Set its options with --set KEY=VALUE."
        )
    if python is not None:
        raise UsageError(
            f"--python works only for training scripts. {reference.name} is trained by Relight's own Python, "
            f"{sys.executable}."
        )
