"""Chooses the checkpoint that an attempt starts from, after verifying every byte of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.checkpoints.file_names import parse_manifest_name
from relight.checkpoints.listing import CheckpointInfo, newest_durable
from relight.errors import CheckpointNotFound, DamagedCheckpoint
from relight.runs.evidence import Evidence
from relight.runs.layout import RunLayout
from relight.runs.records import RunRecord
from relight.wording import count

if TYPE_CHECKING:
    from relight.checkpoints.recovery import PassedOver


@dataclass(frozen=True)
class CheckpointChoice:
    """Where to start; `sequence` None means the beginning. `notes` are sentences for the user."""

    sequence: int | None = None
    step: int = 0
    notes: tuple[str, ...] = ()


def choose_checkpoint(evidence: Evidence, wanted: str | int | None) -> CheckpointChoice:
    """Choose "latest" (or None) as `choose_newest` does, "best" or a step as `choose_named` does."""
    if wanted in (None, "latest"):
        return choose_newest(evidence.layout)
    assert wanted is not None
    info = choose_named(evidence.layout, evidence.require_record(), wanted)
    return CheckpointChoice(sequence=info.sequence, step=info.step)


def choose_newest(layout: RunLayout) -> CheckpointChoice:
    """Choose the newest checkpoint whose digests all match; the beginning when there is none.

    Damaged newer ones are moved to quarantine, each with a note. Call this only while you hold the run's lock.
    """
    newest = newest_durable(layout.checkpoints)
    if newest is None:
        return CheckpointChoice()
    from relight.checkpoints.recovery import find_newest_good
    from relight.checkpoints.store import CheckpointStore

    good, passed_over = find_newest_good(CheckpointStore(layout.checkpoints))
    step = good.step if good is not None else 0
    notes = [_tell(passed) for passed in passed_over]
    if passed_over:
        where = f"the checkpoint at step {step}" if good is not None else "the beginning: no checkpoint is undamaged"
        notes.append(f"Training continues from {where}. That costs {count(max(0, newest[1] - step), 'step')}.")
    return CheckpointChoice(sequence=good.sequence if good is not None else None, step=step, notes=tuple(notes))


def choose_named(layout: RunLayout, record: RunRecord, wanted: str | int) -> CheckpointInfo:
    """Choose the checkpoint "latest", "best" or at a step, and check every byte of it against its digest.

    Raises `CheckpointNotFound`, and `DamagedCheckpoint` when that checkpoint is damaged.
    """
    from relight.checkpoints.store import CheckpointStore

    store = CheckpointStore(layout.checkpoints)
    try:
        info = store.find(wanted, objective=record.objective)
    except CheckpointNotFound:
        for entry in store.list().damaged:
            name = parse_manifest_name(entry.path.name)
            if name is not None and str(name.step) == str(wanted):
                raise _damaged(layout, name.step, entry.reason) from None
        raise
    damage = store.check(info)
    if damage:
        raise _damaged(layout, info.step, damage[0].reason)
    return info


def choose_for_branch(
    layout: RunLayout, record: RunRecord, wanted: str | int
) -> tuple[CheckpointInfo, tuple[str, ...]]:
    """Choose as `choose_named`, in a run that may be training: damaged checkpoints are not moved.

    Also returns notes about the newer checkpoints that "latest" skipped.
    """
    if wanted != "latest":
        return choose_named(layout, record, wanted), ()
    from relight.checkpoints.recovery import find_newest_good
    from relight.checkpoints.store import CheckpointStore

    good, passed_over = find_newest_good(CheckpointStore(layout.checkpoints), quarantine=False)
    if good is None:
        return choose_named(layout, record, wanted), ()
    return good, tuple(_tell(passed) for passed in passed_over)


def _tell(passed: PassedOver) -> str:
    return f"The checkpoint at step {passed.step} was skipped: {passed.reason}"


def _damaged(layout: RunLayout, step: int, reason: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"The checkpoint at step {step} of run {layout.run_id!r} is damaged: {reason} Choose another checkpoint, or "
        "'latest', which skips damaged ones."
    )
