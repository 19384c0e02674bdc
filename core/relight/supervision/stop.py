"""Requesting a run to stop, and waiting until it has."""

from __future__ import annotations

import contextlib
import time

from relight.errors import RelightError
from relight.runs.evidence import Evidence, gather_evidence, read_job
from relight.runs.layout import RunLayout
from relight.runs.process_identity import is_alive
from relight.runs.record_file import read_record_or_none, write_record
from relight.runs.records import AttemptExit, AttemptStart
from relight.runs.status import derive_status
from relight.runs.stop_request import request_stop
from relight.slurm.job import cancel
from relight.supervision.orphans import Orphans

_POLL_S = 0.05


def stop_run(
    layout: RunLayout, *, now: bool = False, grace_s: float = 60.0, wait_s: float | None = None
) -> AttemptExit | None:
    """Request the run to stop at its next step edge with a checkpoint, or `now` without one.

    Without `wait_s` this returns None at once. With `wait_s` it waits that long for the exit record and returns it, or
    None when the run has not ended by then. Raises RelightError when the run is not training.
    """
    evidence = gather_evidence(layout)
    status = derive_status(evidence).status
    # A supervisor that is still alive after a crash is about to restart the run, and so is a torchrun of your own.
    works = status.is_live or evidence.supervisor_alive or evidence.trainer_alive or _has_torchrun(evidence)
    if evidence.attempt == 0 or not works:
        raise RelightError(f"Run {layout.run_id!r} is not training (it is {status}), so there is nothing to stop.")
    request_stop(layout, now=now, grace_s=grace_s)
    job = read_job(layout, fresh=True)
    if job is not None and job.waiting:  # no process can see the request
        cancel(job.job)
        record_stop_in_queue(layout, evidence.attempt)
    if wait_s is None:
        return None
    return _wait_for_exit(layout, deadline=time.monotonic() + wait_s)


def record_stop_in_queue(layout: RunLayout, attempt: int) -> None:
    """Record that the attempt was stopped while no process worked on it, unless its end is on record already."""
    start = read_record_or_none(layout.attempt(attempt).start, AttemptStart)
    record = AttemptExit(
        attempt=attempt,
        time_s=time.time(),
        outcome="stopped",
        step=start.from_step if start is not None else 0,
        reason="Stopped by request while it waited in the queue.",
    )
    with contextlib.suppress(FileExistsError):
        write_record(layout.attempt(attempt).exit, record, replace=False)


def _has_torchrun(evidence: Evidence) -> bool:
    return evidence.start is not None and any(is_alive(agent) for agent in evidence.start.torchrun)


def _wait_for_exit(layout: RunLayout, *, deadline: float) -> AttemptExit | None:
    orphans = Orphans(layout)
    while True:
        evidence = gather_evidence(layout)
        if evidence.exit is not None:
            return evidence.exit
        orphans.end(evidence)
        if time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_S)
