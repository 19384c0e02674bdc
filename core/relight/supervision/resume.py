"""Bringing a dead run back: the next attempt of the same run, from a verified checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from relight.runs.layout import RunLayout
from relight.supervision.attempt import Launched


def resume_run(
    layout: RunLayout,
    *,
    from_: str | int | None = None,
    token: str | None = None,
    max_restarts: int | None = None,
    command: Sequence[str] | None = None,
) -> Launched:
    """Start the run's next attempt from `from_`: "latest" (also None), "best" or a step.

    Raises RunBusy while it is being trained, CheckpointNotFound, DamagedCheckpoint for an explicit one that is damaged.
    """
    raise NotImplementedError
