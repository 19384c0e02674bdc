"""From TASK and its options, as typed, to a task that can be launched; what is wrong is said before a run exists."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from relight.errors import UsageError
from relight.runs.records import TaskReference
from relight.tasks.reference import PreparedTask, resolve_task, validate_config


def prepare_task(
    text: str, assignments: Sequence[str], *, arguments: Sequence[str] = (), python: Path | None = None
) -> PreparedTask:
    """Find the task `text` and build its config. Raises a `RelightError` with one sentence."""
    reference = find_task(text)
    if arguments:
        raise UsageError(
            f"{reference.name} takes no arguments, and got {' '.join(arguments)!r}: "
            "set its options with --set KEY=VALUE."
        )
    if python is not None:
        raise UsageError(
            f"--python is for training scripts; {reference.name} is trained by the Python of Relight, {sys.executable}."
        )
    return validate_config(reference, assignments)


def find_task(text: str) -> TaskReference:
    """Find the task that a person calls `text`; a training script gets an honest refusal."""
    try:
        return resolve_task(text)
    except UsageError as error:
        if text.endswith(".py") and Path(text).expanduser().is_file():
            raise UsageError(
                f"{text} is a training script, and this version cannot launch those yet: put what it trains into a "
                f"relight.Task, and launch that as {text}:CLASS ({str(error).rstrip('.')})."
            ) from None
        raise
