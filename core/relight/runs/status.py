"""What a run is doing, derived from its files and its live processes; never stored, so it cannot be stale."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relight.runs.evidence import Evidence
from relight.runs.records import AttemptExit, AttemptProcesses

STARTING_S = 10.0
"""How long a new run may take until its first attempt begins; after that nobody is coming."""
HANDOVER_S = 1.5
"""How long an attempt may be without a lock and without processes: its launcher has died."""
FOREIGN_SILENCE_S = 15.0
"""A run of another machine counts as running while its files changed no longer ago than this."""


class RunStatus(StrEnum):
    """What a run is doing."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"

    @property
    def is_live(self) -> bool:
        """Whether processes work on the run, or are about to."""
        return self in (RunStatus.QUEUED, RunStatus.RUNNING)


@dataclass(frozen=True)
class StatusReport:
    """A status, and why in one sentence for a person ("" where there is nothing to say)."""

    status: RunStatus
    reason: str = ""


def derive_status(evidence: Evidence) -> StatusReport:
    """The status that the evidence proves. Pure: the same evidence always gives the same answer.

    The exit record has the last word. Without one a run is alive exactly as long as its supervisor and trainer are;
    what the trainer said of its own end (`outcome`) is believed where the supervisor could not write it down.
    """
    if evidence.exit is not None:
        return StatusReport(RunStatus(evidence.exit.outcome), evidence.exit.reason or _exit_reason(evidence.exit))
    if evidence.processes is None:
        return _without_processes(evidence)
    if evidence.foreign:
        return _on_another_machine(evidence, evidence.processes.supervisor.host)
    if evidence.supervisor_alive:
        return _supervised(evidence, evidence.processes)
    return _unsupervised(evidence, evidence.processes)


def _without_processes(evidence: Evidence) -> StatusReport:
    if "processes.json" in evidence.damage:
        if evidence.locked:
            return StatusReport(RunStatus.RUNNING, "Its record of processes is damaged, but the run is locked.")
        return StatusReport(RunStatus.INTERRUPTED, "It ended without an exit record, and its processes are not known.")
    # The lock is held from before the attempt's folder appears, and handed on until the supervisor has it.
    if evidence.locked:
        return StatusReport(RunStatus.QUEUED, "It is being started.")
    imported = evidence.record is not None and evidence.record.imported_from is not None
    if evidence.attempt == 0 and imported:
        return StatusReport(RunStatus.STOPPED, "Its weights were imported; a resume trains from them.")
    patience_s = STARTING_S if evidence.attempt == 0 else HANDOVER_S
    # A clock that was set back, or another machine's, must not keep a dead launch waiting for ever: hence abs.
    if abs(evidence.now_s - evidence.launched_s) < patience_s:
        return StatusReport(RunStatus.QUEUED)
    if evidence.attempt == 0:
        return StatusReport(RunStatus.INTERRUPTED, "It was created but never started.")
    return StatusReport(RunStatus.INTERRUPTED, "Its supervisor never started.")


def _on_another_machine(evidence: Evidence, host: str) -> StatusReport:
    if evidence.silent_s < FOREIGN_SILENCE_S:
        return StatusReport(RunStatus.RUNNING, f"It runs on the machine {host!r}.")
    told = _told_by_trainer(evidence)
    return told or StatusReport(
        RunStatus.INTERRUPTED, f"It ran on the machine {host!r}, which has not written to it any more."
    )


def _supervised(evidence: Evidence, processes: AttemptProcesses) -> StatusReport:
    if processes.trainer is None:
        return StatusReport(RunStatus.QUEUED, "Its trainer is being started.")
    if evidence.trainer_alive:
        return StatusReport(RunStatus.RUNNING)
    # The trainer has ended this instant and the exit record is on its way; or the supervisor hangs.
    told = _told_by_trainer(evidence)
    if told is not None:
        return told
    if evidence.stop is not None:
        return StatusReport(RunStatus.STOPPED, "It was asked to stop.")
    return StatusReport(RunStatus.CRASHED, f"Its trainer (pid {processes.trainer.pid}) was killed.")


def _unsupervised(evidence: Evidence, processes: AttemptProcesses) -> StatusReport:
    told = _told_by_trainer(evidence)
    if told is not None and not evidence.trainer_alive:
        return told
    if not evidence.same_boot:
        return StatusReport(RunStatus.INTERRUPTED, "The machine was restarted, or lost power.")
    killed = f"The supervisor (pid {processes.supervisor.pid}) was killed"
    if evidence.trainer_alive and processes.trainer is not None:
        return StatusReport(RunStatus.INTERRUPTED, f"{killed}; its trainer (pid {processes.trainer.pid}) is ending.")
    if "exit.json" in evidence.damage:
        return StatusReport(RunStatus.INTERRUPTED, "Its exit record is damaged, so how it ended is not known.")
    return StatusReport(RunStatus.INTERRUPTED, f"{killed}.")


def _told_by_trainer(evidence: Evidence) -> StatusReport | None:
    """How it ended by the trainer's own word; a stop that nobody asked for is what a lost supervisor leads to."""
    outcome = evidence.outcome
    if outcome is None:
        return None
    if outcome.outcome == "stopped" and evidence.stop is None and not evidence.supervisor_alive:
        return None
    return StatusReport(RunStatus(outcome.outcome), outcome.reason or outcome.error or "")


def _exit_reason(exit: AttemptExit) -> str:
    if exit.outcome != "crashed":
        return ""
    if exit.error:
        return exit.error
    return f"Ended by {exit.signal}." if exit.signal else f"Ended with exit code {exit.exit_code}."
