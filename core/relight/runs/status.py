"""Derives the status of a run from its files and its live processes. It is never stored, so it is never stale."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relight.runs.evidence import Evidence
from relight.runs.records import AttemptExit, AttemptProcesses

STARTING_S = 10.0
"""How long a new run may wait for its first attempt; after that its launcher is considered dead."""
HANDOVER_S = 1.5
"""How long an attempt may have neither lock nor processes; after that its launcher is considered dead."""
FOREIGN_SILENCE_S = 15.0
"""A run on another machine counts as running if one of its files has changed within this time."""


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
        """Whether processes work on the run or are about to."""
        return self in (RunStatus.QUEUED, RunStatus.RUNNING)


@dataclass(frozen=True)
class StatusReport:
    """A status, and its reason as a sentence for the user ("" where there is nothing to add)."""

    status: RunStatus
    reason: str = ""


def derive_status(evidence: Evidence) -> StatusReport:
    """Return the status that the evidence proves. Pure: the same evidence always gives the same answer.

    The exit record has the last word. Without one, a run is alive exactly as long as its supervisor and trainer are.
    The trainer's own word about its end (`outcome`) counts where the supervisor could not write an exit record.
    """
    if evidence.job is not None and evidence.job.waiting:
        return StatusReport(RunStatus.QUEUED, evidence.job.sentence)
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
            return StatusReport(RunStatus.RUNNING, "Its list of processes is damaged, but its lock is held.")
        return StatusReport(RunStatus.INTERRUPTED, "It has no exit record, and its list of processes is damaged.")
    if evidence.job is not None and not evidence.locked:
        return StatusReport(RunStatus.INTERRUPTED if evidence.job.ended else RunStatus.QUEUED, evidence.job.sentence)
    # The launcher takes the lock before it makes the attempt's folder, and hands it to the supervisor.
    if evidence.locked:
        return StatusReport(RunStatus.QUEUED, "Its supervisor is being started.")
    imported = evidence.record is not None and evidence.record.imported_from is not None
    if evidence.attempt == 0 and imported:
        return StatusReport(RunStatus.STOPPED, "Its weights were imported. Resume it to train from them.")
    patience_s = STARTING_S if evidence.attempt == 0 else HANDOVER_S
    # abs: a clock that was set back, or another machine's clock, must not keep a dead launch queued forever.
    if abs(evidence.now_s - evidence.launched_s) < patience_s:
        return StatusReport(RunStatus.QUEUED)
    if evidence.attempt == 0:
        return StatusReport(RunStatus.INTERRUPTED, "It was created, but its first attempt never started.")
    return StatusReport(RunStatus.INTERRUPTED, "Its supervisor never started.")


def _on_another_machine(evidence: Evidence, host: str) -> StatusReport:
    job = evidence.job
    if job is not None and job.working:
        return StatusReport(RunStatus.RUNNING, job.sentence)
    told = _told_by_trainer(evidence)
    if job is not None and job.ended:
        return told or StatusReport(RunStatus.INTERRUPTED, job.sentence)
    if evidence.now_s - evidence.changed_s < FOREIGN_SILENCE_S:
        return StatusReport(RunStatus.RUNNING, f"It runs on the machine {host!r}.")
    return told or StatusReport(
        RunStatus.INTERRUPTED, f"It ran on the machine {host!r}, which no longer writes to its folder."
    )


def _supervised(evidence: Evidence, processes: AttemptProcesses) -> StatusReport:
    if processes.trainer is None:
        return StatusReport(RunStatus.QUEUED, "Its trainer is being started.")
    if evidence.trainer_alive:
        return StatusReport(RunStatus.RUNNING, evidence.job.sentence if evidence.job is not None else "")
    # The trainer has just ended and the supervisor is about to write the exit record; or the supervisor hangs.
    told = _told_by_trainer(evidence)
    if told is not None:
        return told
    if evidence.stop is not None:
        return StatusReport(RunStatus.STOPPED, "Stopped by request.")
    return StatusReport(RunStatus.CRASHED, f"Its trainer (pid {processes.trainer.pid}) was killed.")


def _unsupervised(evidence: Evidence, processes: AttemptProcesses) -> StatusReport:
    told = _told_by_trainer(evidence)
    if told is not None and not evidence.trainer_alive:
        return told
    if not evidence.same_boot:
        return StatusReport(RunStatus.INTERRUPTED, "The machine was restarted, or lost power.")
    killed = f"Its supervisor (pid {processes.supervisor.pid}) was killed"
    if evidence.trainer_alive and processes.trainer is not None:
        return StatusReport(RunStatus.INTERRUPTED, f"{killed}; its trainer (pid {processes.trainer.pid}) is ending.")
    if "exit.json" in evidence.damage:
        return StatusReport(RunStatus.INTERRUPTED, "Its exit record is damaged, so it is unknown how it ended.")
    if evidence.job is not None and evidence.job.ended:
        return StatusReport(RunStatus.INTERRUPTED, f"{killed}. {evidence.job.sentence}")
    if processes.trainer is None:
        return StatusReport(
            RunStatus.INTERRUPTED,
            f"{killed}, or failed, before it had started a trainer. The supervisor.txt of the attempt may say why.",
        )
    return StatusReport(RunStatus.INTERRUPTED, f"{killed}.")


def _told_by_trainer(evidence: Evidence) -> StatusReport | None:
    """Return how the trainer says it ended; None for a stop without a request, which a lost supervisor causes."""
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
