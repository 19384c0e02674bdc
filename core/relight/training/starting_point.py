"""The checkpoint that an attempt starts from."""

from __future__ import annotations

from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.store import CheckpointStore
from relight.errors import CheckpointNotFound
from relight.runs.layout import RunLayout
from relight.runs.records import AttemptStart


def find_starting_checkpoint(layout: RunLayout, start: AttemptStart) -> CheckpointInfo:
    """Return the checkpoint that attempt `start` names. Raises `CheckpointNotFound` if it has been deleted."""
    checkpoints = CheckpointStore(layout.checkpoints).list().checkpoints
    found = next((info for info in checkpoints if info.sequence == start.from_sequence), None)
    if found is None:
        raise CheckpointNotFound(
            f"Checkpoint {start.from_sequence} of run '{layout.run_id}' does not exist any more. "
            "Resume from another checkpoint."
        )
    return found
