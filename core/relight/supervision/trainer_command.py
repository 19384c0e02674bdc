"""What the supervisor runs as the trainer of a run, and in which folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from relight.runs.layout import RunLayout
from relight.runs.records import RunRecord


@dataclass(frozen=True)
class TrainerCommand:
    """The arguments of the process, and the folder it works in (None: the supervisor's own)."""

    arguments: tuple[str, ...]
    folder: Path | None = None


def build_trainer_command(layout: RunLayout, attempt: int, record: RunRecord) -> TrainerCommand:
    """Build the command that trains attempt `attempt` of the run; relative paths mean what they meant at the launch."""
    folder = record.task.working_folder
    # -P: what lies in the current folder must not stand in for modules of ours. The task's own folder comes later.
    return TrainerCommand(
        arguments=(sys.executable, "-P", "-m", "relight.training", str(layout.folder), str(attempt)),
        folder=Path(folder) if folder and Path(folder).is_dir() else None,
    )
