"""An attempt's beginning: its folder appears with its start record, and a detached supervisor takes over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relight.runs.layout import RunLayout
from relight.runs.records import AttemptStart


@dataclass(frozen=True)
class Launched:
    """A run whose attempt `attempt` is on its way. `created` is False when somebody else had already started it."""

    layout: RunLayout
    attempt: int
    created: bool
    notes: tuple[str, ...] = ()
    """Sentences for a person: damaged checkpoints that were passed over, and how many steps that costs."""


def start_attempt(layout: RunLayout, start: AttemptStart, *, command: Sequence[str] | None = None) -> None:
    """Make the attempt's folder and start its supervisor, detached: closing browser, terminal or server ends nothing.

    `command` replaces the trainer's command. Raises FileExistsError when that attempt exists, RunBusy when the run is
    being trained.
    """
    raise NotImplementedError
