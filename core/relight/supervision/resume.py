"""Resumes a dead run: starts its next attempt from a verified checkpoint."""

from __future__ import annotations

import time

import msgspec

from relight.checkpoints.listing import newest_durable
from relight.errors import RelightError, RunBusy, UsageError
from relight.overview.work_at_risk import find_last_step
from relight.runs.evidence import Evidence, gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.records import AttemptStart, name_nproc
from relight.runs.status import derive_status
from relight.supervision.attempt_start import Launched, OwnSupervisor, start_attempt
from relight.supervision.checkpoint_choice import CheckpointChoice, choose_checkpoint
from relight.supervision.job_submission import count_nodes, is_for_slurm
from relight.supervision.orphans import Orphans, find_strangers
from relight.supervision.trust import require_trust

LOCK_WAIT_S = 60.0
"""How long a resume waits for a trainer that is ending, or for a writer that is finishing a checkpoint."""
STRANGERS_S = 2.0
"""How long an ended run may still be locked before other holders of its lock are looked for."""
_POLL_S = 0.05


def resume_run(
    layout: RunLayout,
    *,
    from_: str | int | None = None,
    token: str | None = None,
    max_restarts: int | None = None,
    nproc: int | None = None,
    gpus: tuple[int, ...] | None = None,
    trust: bool = False,
    own: OwnSupervisor | None = None,
) -> Launched:
    """Start the run's next attempt from `from_`: "latest" (or None), "best" or a step.

    "latest" means the newest undamaged checkpoint; `notes` names the damaged ones that were skipped. Without any
    checkpoint the run starts from the beginning. A repeated `token` returns the attempt that the first call started.
    `max_restarts`, `nproc` (for each node) and `gpus` None keep the value of the last attempt; `gpus` () are all cards.
    `trust` allows the code of a run that was made elsewhere. With `own` the caller supervises the attempt.

    Raises `RunBusy` while the run is being trained; of several resumes at once, one starts an attempt and the others
    raise it. Raises `CheckpointNotFound`, `DamagedCheckpoint` when the requested checkpoint is damaged, and
    `RelightError` when the run has finished, or `UntrustedRun`.
    """
    number = layout.latest_attempt()
    try:
        with lock_when_free(layout, number, token=token) as lock:
            # Gathered under the lock: while this process holds it, no attempt begins, and all earlier ones have ended.
            evidence = gather_evidence(layout)
            started = evidence.find_token(token)
            if started is None:
                refuse_resume(evidence, number, from_=from_)
                require_trust(layout, evidence.require_record(), trust=trust)
                choice = choose_checkpoint(evidence, from_)
                start = _next_start(evidence, choice, token=token, max_restarts=max_restarts, nproc=nproc, gpus=gpus)
                reached = _find_last_step(evidence)
                start_attempt(layout, start, lock=lock, own=own)
                return Launched(layout, start.attempt, created=True, notes=choice.notes, reached_step=reached)
    except (RunBusy, FileExistsError):
        # An earlier resume with the same token may be what keeps the run busy: look again.
        started = gather_evidence(layout).find_token(token)
        if started is None:
            raise
    return Launched(layout, started, created=False)


def refuse_resume(evidence: Evidence, number: int, *, from_: str | int | None = None) -> None:
    """Raise when there is nothing to resume, or when another process or machine resumed it after attempt `number`."""
    if evidence.attempt != number:
        raise _started_by_another(evidence)
    _refuse_if_elsewhere(evidence)
    if evidence.exit is not None and evidence.exit.outcome == "finished" and from_ is None:
        finished = f"Run {evidence.layout.run_id!r} has finished, so there is nothing to resume."
        step, progress = evidence.exit.step, evidence.progress
        if progress is not None and 0 < step < progress.steps_total:
            raise RelightError(
                f"{finished} Its script left its loops at step {step} of {progress.steps_total}, and a resume or a "
                "branch from that step ends there too. Name an earlier checkpoint, to train from there."
            )
        raise RelightError(
            f"{finished} Branch from one of its checkpoints to train further, or name a checkpoint to resume from, to "
            "repeat the training from there."
        )


def _next_start(
    evidence: Evidence,
    choice: CheckpointChoice,
    *,
    token: str | None,
    max_restarts: int | None,
    nproc: int | None,
    gpus: tuple[int, ...] | None,
) -> AttemptStart:
    before = evidence.start
    if max_restarts is None:
        max_restarts = before.max_restarts if before is not None else 0
    if nproc is None:
        nproc = before.world_size if before is not None else 1
    else:
        nproc *= count_nodes(evidence.layout)
    if gpus is None:
        gpus = before.chosen_gpus if before is not None else ()
    elif gpus and is_for_slurm(evidence.layout):
        raise UsageError(
            "--gpus chooses cards of this machine, and Slurm starts this run. Its job.sbatch asks for cards."
        )
    return AttemptStart(
        attempt=evidence.attempt + 1,
        time_s=time.time(),
        reason="resume" if evidence.attempt else "launch",
        from_sequence=choice.sequence,
        from_step=choice.step,
        notes=choice.notes,
        max_restarts=max_restarts,
        token=token,
        nproc=name_nproc(nproc),
        gpus=gpus or msgspec.UNSET,
    )


def _find_last_step(evidence: Evidence) -> int:
    newest = newest_durable(evidence.layout.checkpoints)
    return find_last_step(evidence, newest_step=newest[1] if newest is not None else None)


def lock_when_free(layout: RunLayout, number: int, *, token: str | None = None) -> RunLock:
    """Take the run's lock, waiting for an attempt that is ending; `RunBusy` at once while the run is being trained."""
    deadline = time.monotonic() + LOCK_WAIT_S
    look_at = time.monotonic() + STRANGERS_S
    orphans = Orphans(layout)
    while True:
        try:
            return RunLock.acquire(layout)
        except RunBusy as error:
            busy = error
        evidence = gather_evidence(layout)  # gathered again each time, because the attempt is ending
        if evidence.attempt != number:
            raise _started_by_another(evidence) from busy
        if evidence.find_token(token) is not None:
            raise busy
        _refuse_if_elsewhere(evidence)
        # A supervisor whose attempt has an exit record is about to end, or to restart the run.
        if evidence.supervisor_alive and not layout.attempt(number).exit.exists():
            raise busy
        if time.monotonic() >= deadline:
            raise _still_ending(evidence) or busy
        orphans.end(evidence)
        if time.monotonic() >= look_at:
            strangers = find_strangers(layout, evidence)
            if strangers is not None:
                raise strangers from busy
            look_at = time.monotonic() + STRANGERS_S
        time.sleep(_POLL_S)


def _refuse_if_elsewhere(evidence: Evidence) -> None:
    """Raise `RunBusy` when another machine trains the run, or is about to: its lock may not be visible here."""
    report = derive_status(evidence)
    if (evidence.foreign or evidence.job is not None) and report.status.is_live:
        raise RunBusy(f"Run {evidence.layout.run_id!r} is already training. {report.reason} Stop it first.")


def _started_by_another(evidence: Evidence) -> RunBusy:
    return RunBusy(
        f"Run {evidence.layout.run_id!r} has just been resumed by another process, as attempt {evidence.attempt}. "
        "Look at that attempt."
    )


def _still_ending(evidence: Evidence) -> RunBusy | None:
    for process, pid in (("checkpoint writer", evidence.writer_pid), ("trainer", evidence.trainer_pid)):
        if pid is not None:
            return RunBusy(
                f"The {process} of run {evidence.layout.run_id!r} (pid {pid}) is still working. Resume the run when it "
                "has ended."
            )
    return None
