"""Bringing a dead run back: the next attempt of the same run, from a verified checkpoint."""

from __future__ import annotations

import time

from relight.errors import RelightError, RunBusy
from relight.runs.evidence import gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.records import AttemptExit, AttemptStart
from relight.runs.status import derive_status
from relight.supervision.attempt_history import find_by_token, read_or_none
from relight.supervision.attempt_start import Launched, start_attempt
from relight.supervision.checkpoint_choice import choose_checkpoint
from relight.supervision.orphans import Leftovers

LOCK_WAIT_S = 60.0
"""How long a resume waits for a dying trainer, and for a writer that still makes a checkpoint durable."""
_POLL_S = 0.05


def resume_run(
    layout: RunLayout,
    *,
    from_: str | int | None = None,
    token: str | None = None,
    max_restarts: int | None = None,
) -> Launched:
    """Start the run's next attempt from `from_`: "latest" (also None), "best" or a step.

    "latest" is the newest checkpoint that is whole: damaged ones are passed over, and `notes` says so; with none at all
    the run starts from the beginning. The same `token` again gives the attempt that it started. `max_restarts` None
    keeps what the last attempt had.

    Of several resumes at once one starts an attempt, the others raise RunBusy, as they do while the run is being
    trained. Raises CheckpointNotFound, DamagedCheckpoint when the very checkpoint that was asked for is damaged, and
    RelightError for a run that has finished.
    """
    number = layout.latest_attempt()
    if token is not None and (started := find_by_token(layout, token)) is not None:
        return Launched(layout, started, created=False)
    _refuse_if_elsewhere(layout)
    try:
        lock = _lock_when_free(layout, number)
        with lock:
            if layout.latest_attempt() != number:
                raise _started_by_another(layout)
            return _start_next(layout, number, lock, from_=from_, token=token, max_restarts=max_restarts)
    except (RunBusy, FileExistsError):
        if token is not None and (started := find_by_token(layout, token)) is not None:
            return Launched(layout, started, created=False)
        raise


def _start_next(
    layout: RunLayout,
    number: int,
    lock: RunLock,
    *,
    from_: str | int | None,
    token: str | None,
    max_restarts: int | None,
) -> Launched:
    last = layout.attempt(number)
    ended = read_or_none(last.exit, AttemptExit)
    if ended is not None and ended.outcome == "finished" and from_ is None:
        raise RelightError(
            f"Run {layout.run_id!r} has finished, so there is nothing to resume. Branch from one of its checkpoints to "
            "train on, or name the step to train again from."
        )
    if max_restarts is None:
        before = read_or_none(last.start, AttemptStart)
        max_restarts = before.max_restarts if before is not None else 0
    choice = choose_checkpoint(layout, from_)
    start = AttemptStart(
        attempt=number + 1,
        time_s=time.time(),
        reason="resume" if number else "launch",
        from_sequence=choice.sequence,
        from_step=choice.step,
        notes=choice.notes,
        max_restarts=max_restarts,
        token=token,
    )
    start_attempt(layout, start, lock=lock)
    return Launched(layout, start.attempt, created=True, notes=choice.notes)


def _lock_when_free(layout: RunLayout, number: int) -> RunLock:
    """Take the run's lock, waiting for whoever is only finishing; RunBusy at once when the run is being trained."""
    deadline = time.monotonic() + LOCK_WAIT_S
    leftovers = Leftovers(layout, number)
    ended = layout.attempt(number).exit
    while True:
        try:
            return RunLock.acquire(layout)
        except RunBusy as error:
            if layout.latest_attempt() != number:
                raise _started_by_another(layout) from error
            # A supervisor whose attempt has an exit record is about to end, or to restart the run by itself.
            if leftovers.supervisor_pid is not None and not ended.exists():
                raise
            if time.monotonic() >= deadline:
                raise _still_ending(layout, leftovers) or error from error
        leftovers.end_orphans()
        time.sleep(_POLL_S)


def _refuse_if_elsewhere(layout: RunLayout) -> None:
    """A lock need not reach another machine that shares the folder; the files that it still writes to do."""
    now_s = time.time()
    evidence = gather_evidence(layout, None, now_s=now_s)
    report = derive_status(evidence, now_s=now_s)
    if evidence.foreign and report.status.is_live:
        raise RunBusy(f"Run {layout.run_id!r} is already training. {report.reason} Stop it first.")


def _started_by_another(layout: RunLayout) -> RunBusy:
    return RunBusy(
        f"Run {layout.run_id!r} has just been started again by somebody else, as attempt {layout.latest_attempt()}; "
        "look at that one."
    )


def _still_ending(layout: RunLayout, leftovers: Leftovers) -> RunBusy | None:
    for who, pid in (("checkpoint writer", leftovers.writer_pid), ("trainer", leftovers.trainer_pid)):
        if pid is not None:
            return RunBusy(
                f"The {who} of run {layout.run_id!r} (pid {pid}) is still at work; resume it when it is done."
            )
    return None
