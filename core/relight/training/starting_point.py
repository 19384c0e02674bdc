"""The checkpoint that an attempt starts from."""

from __future__ import annotations

from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.store import CheckpointStore
from relight.runs.layout import RunLayout
from relight.runs.records import AttemptStart


def find_starting_checkpoint(layout: RunLayout, start: AttemptStart) -> CheckpointInfo:
    """Return the checkpoint that attempt `start` names. Raises `CheckpointNotFound` if it has been deleted."""
    assert start.from_sequence is not None
    return CheckpointStore(layout.checkpoints).find_sequence(start.from_sequence)
