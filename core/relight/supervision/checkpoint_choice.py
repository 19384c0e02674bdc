"""Which checkpoint an attempt starts from: verified whole before it is chosen, and what was passed over is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.checkpoints.file_names import parse_manifest_name
from relight.checkpoints.listing import CheckpointInfo, newest_durable
from relight.errors import CheckpointNotFound, DamagedCheckpoint
from relight.runs.layout import RunLayout
from relight.runs.run_record import read_run_record

if TYPE_CHECKING:
    from relight.checkpoints.recovery import PassedOver


@dataclass(frozen=True)
class CheckpointChoice:
    """Where to start: `sequence` None is the beginning. `notes` are sentences for a person."""

    sequence: int | None = None
    step: int = 0
    notes: tuple[str, ...] = ()


def choose_checkpoint(layout: RunLayout, wanted: str | int | None) -> CheckpointChoice:
    """Choose "latest" (also None), "best" or a step.

    Every byte of the choice has been checked against its digest. Of "latest", damaged ones are moved to quarantine and
    passed over, each with a note; nothing left is the beginning. Another wanted one that is damaged raises
    DamagedCheckpoint, one that is not there CheckpointNotFound.
    """
    newest = newest_durable(layout.checkpoints)
    if wanted in (None, "latest"):
        return CheckpointChoice() if newest is None else _choose_newest(layout, newest_step=newest[1])
    assert wanted is not None
    info = _find_whole(layout, wanted)
    return CheckpointChoice(sequence=info.sequence, step=info.step)


def choose_for_branch(layout: RunLayout, wanted: str | int) -> tuple[CheckpointInfo, tuple[str, ...]]:
    """As `choose_checkpoint`, of a run that may be training: nothing is moved, and there must be a checkpoint."""
    if wanted != "latest":
        return _find_whole(layout, wanted), ()
    from relight.checkpoints.recovery import find_newest_good
    from relight.checkpoints.store import CheckpointStore

    good, passed_over = find_newest_good(CheckpointStore(layout.checkpoints), quarantine=False)
    if good is None:
        return _find_whole(layout, wanted), ()
    return good, tuple(_tell(passed) for passed in passed_over)


def _find_whole(layout: RunLayout, wanted: str | int) -> CheckpointInfo:
    """The checkpoint "latest", "best" or at a step, every byte of it checked."""
    from relight.checkpoints.store import CheckpointStore

    record = read_run_record(layout)
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


def _choose_newest(layout: RunLayout, *, newest_step: int) -> CheckpointChoice:
    from relight.checkpoints.recovery import find_newest_good
    from relight.checkpoints.store import CheckpointStore

    good, passed_over = find_newest_good(CheckpointStore(layout.checkpoints))
    step = good.step if good is not None else 0
    notes = [_tell(passed) for passed in passed_over]
    if passed_over:
        where = f"the checkpoint of step {step}" if good is not None else "the beginning, as no checkpoint is whole"
        notes.append(f"Training goes on from {where}; that costs {max(0, newest_step - step)} steps.")
    return CheckpointChoice(sequence=good.sequence if good is not None else None, step=step, notes=tuple(notes))


def _tell(passed: PassedOver) -> str:
    return f"The checkpoint of step {passed.step} was passed over: {passed.reason}"


def _damaged(layout: RunLayout, step: int, reason: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"The checkpoint of step {step} of run {layout.run_id!r} is damaged: {reason} Choose another one, or 'latest', "
        "which passes over what is damaged."
    )
