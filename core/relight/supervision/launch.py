"""Starting a new run, once per token however often it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relight.runs.records import Parent, TaskReference
from relight.supervision.attempt import Launched, start_attempt
from relight.supervision.branch import branch_run
from relight.supervision.resume import resume_run

__all__ = ["Launched", "branch_run", "launch_run", "resume_run", "start_attempt"]


def launch_run(
    folder: Path,
    *,
    task: TaskReference,
    config: dict[str, Any],
    best_metric: str | None,
    higher_is_better: bool,
    name: str | None = None,
    token: str | None = None,
    max_restarts: int = 0,
    parent: Parent | None = None,
    command: Sequence[str] | None = None,
) -> Launched:
    """Create a run in the runs folder and start its first attempt. The same `token` again returns the same run."""
    raise NotImplementedError
