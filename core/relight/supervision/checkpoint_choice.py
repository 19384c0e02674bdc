"""Which checkpoint an attempt starts from: verified whole before it is chosen, and what was passed over is told."""

from __future__ import annotations

from dataclasses import dataclass

from relight.checkpoints.listing import newest_durable
from relight.errors import DamagedCheckpoint
from relight.runs.layout import RunLayout
from relight.runs.summary import read_run_record


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
    from relight.checkpoints.store import CheckpointStore

    record = read_run_record(layout)
    store = CheckpointStore(layout.checkpoints)
    info = store.find(wanted, best_metric=record.best_metric, higher_is_better=record.higher_is_better)
    # Verified through the same door as the newest: it is the newest of those up to itself, if it is whole.
    good, passed_over = store.newest_good(before_sequence=info.sequence + 1)
    if good is None or good.sequence != info.sequence:
        reason = passed_over[0].reason if passed_over else "it cannot be read."
        other = f"The newest before it that is whole is step {good.step}." if good else "None before it is whole."
        raise DamagedCheckpoint(
            f"The checkpoint of step {info.step} of run {layout.run_id!r} is damaged: {reason} {other}"
        )
    return CheckpointChoice(sequence=info.sequence, step=info.step)


def _choose_newest(layout: RunLayout, *, newest_step: int) -> CheckpointChoice:
    from relight.checkpoints.store import CheckpointStore

    good, passed_over = CheckpointStore(layout.checkpoints).newest_good()
    notes = [passed.reason for passed in passed_over]
    step = good.step if good is not None else 0
    if passed_over:
        where = f"the checkpoint of step {step}" if good is not None else "the beginning, as no checkpoint is whole"
        notes.append(f"It goes on from {where}: {newest_step - step} steps are trained again.")
    return CheckpointChoice(sequence=good.sequence if good is not None else None, step=step, notes=tuple(notes))
