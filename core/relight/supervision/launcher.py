"""The contract between a supervisor and a launcher: how the trainer of an attempt is started and watched."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Protocol

from relight.runs.layout import AttemptLayout
from relight.runs.records import ProcessIdentity, TaskReference


@dataclass(frozen=True)
class ProcessEnd:
    """How the kernel says the trainer ended: with an exit code or by a signal.

    Both are None when the trainer was not a child of the supervisor: the kernel reports an end to the parent only.
    """

    exit_code: int | None = None
    signal: str | None = None
    """Name of the signal: "SIGKILL"."""
    peak_memory_bytes: int | None = None


class Trainer(Protocol):
    """The trainer of one attempt while its supervisor watches it."""

    @property
    def pid(self) -> int:
        """Pid of the process that stands for the whole trainer; its descendants belong to it."""

    @property
    def identity(self) -> ProcessIdentity | None:
        """Identity of that process; None when it ended before it could be identified."""

    def send(self, which: signal.Signals) -> None:
        """Send a signal. SIGKILL reaches every process of the trainer; other signals reach the main process only.

        Does nothing when the trainer has already ended.
        """

    def poll(self) -> ProcessEnd | None:
        """Return how the trainer ended, or None while it lives. Call it until it has returned an end."""


class Launcher(Protocol):
    """A way to start trainers. A supervisor has one launcher and asks it once for each attempt."""

    def start(self, task: TaskReference, attempt: AttemptLayout) -> Trainer:
        """Start the trainer of `attempt`; its output goes to the attempt's log.

        Raises OSError or RelightError when it cannot be started.
        """
