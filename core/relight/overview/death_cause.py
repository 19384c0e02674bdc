"""What ended a run, as one word: derived from the records of its newest attempt, without reading any other file."""

from __future__ import annotations

from typing import Literal

from relight.runs.evidence import Evidence
from relight.runs.records import AttemptExit, TrainerOutcome
from relight.runs.status import RunStatus

DeathCause = Literal[
    "stopped",
    "stopped_by_signal",
    "exception",
    "gpu_memory",
    "disk_full",
    "out_of_memory",
    "killed",
    "signal",
    "fatal_signal",
    "exit_code",
    "ended_unseen",
    "machine_restarted",
    "supervisor_killed",
    "other_machine",
    "never_started",
    "unknown",
]
"""Why a run does not train any more.

* stopped: by a person. stopped_by_signal: by a shutdown, a scheduler or `kill`; the trainer ended in order.
* exception: the code raised it. gpu_memory: a CUDA out of memory error. disk_full: no space left.
* out_of_memory: the kernel ended it. killed: SIGKILL from elsewhere. signal: another signal that asks a process to end.
* fatal_signal: a crash in native code, or a limit. exit_code: the script ended on its own before it was done.
* ended_unseen: it ended without a trace (a script that was started by hand).
* machine_restarted, supervisor_killed: no process was left to record the end. other_machine: the same, elsewhere.
* never_started: its first attempt, or the supervisor of its newest one, did not start.
"""

INTERRUPTIONS: frozenset[DeathCause] = frozenset(
    {
        "stopped_by_signal",
        "out_of_memory",
        "killed",
        "signal",
        "ended_unseen",
        "machine_restarted",
        "supervisor_killed",
        "other_machine",
        "never_started",
    }
)
"""Causes from outside of the run's own code: to continue is right. The others need a look first, except for stops."""

_ASKING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_GPU_MEMORY = ("CUDA out of memory", "HIP out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_DISK_FULL = ("No space left on device", "Disk quota exceeded", "the disk is full", "the disk quota is used up")


def find_cause(evidence: Evidence, status: RunStatus) -> DeathCause | None:
    """Return what ended the run; None while it is live, after it has finished, and before it has ever trained."""
    if status.is_live or status is RunStatus.FINISHED:
        return None
    told = evidence.exit or evidence.outcome
    if status is RunStatus.STOPPED:
        return _find_stop(evidence, told)
    if status is RunStatus.INTERRUPTED:
        return _find_interruption(evidence)
    return _find_crash(evidence, told)


def _find_stop(evidence: Evidence, told: AttemptExit | TrainerOutcome | None) -> DeathCause | None:
    if not evidence.attempt:
        return None  # its weights were imported
    by_signal = told.stop_signal if told is not None else None
    return "stopped_by_signal" if by_signal not in (None, "SIGINT") else "stopped"


def _find_interruption(evidence: Evidence) -> DeathCause:
    if evidence.foreign:
        return "other_machine"
    if evidence.processes is None:
        return "unknown" if "processes.json" in evidence.damage else "never_started"
    if not evidence.same_boot:
        return "machine_restarted"
    return "unknown" if "exit.json" in evidence.damage else "supervisor_killed"


def _find_crash(evidence: Evidence, told: AttemptExit | TrainerOutcome | None) -> DeathCause:
    error = (told.error if told is not None else None) or ""
    ended = told if isinstance(told, AttemptExit) else None
    if any(phrase in error for phrase in _DISK_FULL):
        return "disk_full"
    if any(phrase in error for phrase in _GPU_MEMORY):
        return "gpu_memory"
    ran_out = ended is not None and ended.out_of_memory is not None
    # The kernel may end a process that loads data; the trainer then raises an error about it.
    if ran_out and (not error or "worker" in error):
        return "out_of_memory"
    if error:
        return "exception"
    if evidence.processes is None:
        return "never_started"
    if ended is None:
        return "killed"  # the supervisor has not recorded it yet
    if ended.signal is not None:
        return "killed" if ended.signal == "SIGKILL" else "signal" if ended.signal in _ASKING else "fatal_signal"
    return "exit_code" if ended.exit_code is not None else "ended_unseen"
