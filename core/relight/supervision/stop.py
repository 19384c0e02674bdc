"""Asking a run to stop, and waiting until it has."""

from __future__ import annotations

import time

from relight.errors import RelightError
from relight.runs.evidence import read_status
from relight.runs.layout import RunLayout
from relight.runs.records import AttemptExit
from relight.runs.stop_request import request_stop
from relight.supervision.attempt_history import read_or_none
from relight.supervision.orphans import Leftovers

_POLL_S = 0.05


def stop_run(
    layout: RunLayout, *, now: bool = False, grace_s: float = 60.0, wait_s: float | None = None
) -> AttemptExit | None:
    """Ask the run to stop at its next step edge with a checkpoint, or `now` without one.

    Returns at once, with None; or, given `wait_s`, waits that long for the exit record and returns it, None when it has
    not ended yet. Raises RelightError when the run is not being trained.
    """
    number = layout.latest_attempt()
    leftovers = Leftovers(layout, number)
    status = read_status(layout, now_s=time.time()).status
    # A supervisor that lives behind a crash is about to restart the run.
    if number == 0 or not (status.is_live or leftovers.supervisor_pid or leftovers.trainer_pid):
        raise RelightError(f"Run {layout.run_id!r} is not being trained (it is {status}), so there is nothing to stop.")
    request_stop(layout, now=now, grace_s=grace_s)
    if wait_s is None:
        return None
    return _wait_for_exit(layout, leftovers, deadline=time.monotonic() + wait_s)


def _wait_for_exit(layout: RunLayout, leftovers: Leftovers, *, deadline: float) -> AttemptExit | None:
    while True:
        record = read_or_none(layout.attempt(layout.latest_attempt()).exit, AttemptExit)
        if record is not None:
            return record
        leftovers.end_orphans()
        if time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_S)
