"""Asking a run to stop, and waiting until it has."""

from __future__ import annotations

from relight.runs.layout import RunLayout
from relight.runs.records import AttemptExit


def stop_run(
    layout: RunLayout, *, now: bool = False, grace_s: float = 60.0, wait_s: float | None = None
) -> AttemptExit | None:
    """Ask the run to stop at its next step edge with a checkpoint, or `now` without one.

    Waits up to `wait_s` seconds for the exit record and returns it; None when it has not ended yet. Raises RelightError
    when the run is not being trained.
    """
    raise NotImplementedError
