"""How an attempt ended: the exit record, made from the exit code or signal and the trainer's own report."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import Literal

from relight.runs.progress import Progress
from relight.runs.records import AttemptExit, Outcome, TrainerOutcome
from relight.supervision.launcher import ProcessEnd
from relight.wording import describe_bytes

FINISHED_CODE = 0
STOPPED_CODE = 130

OutOfMemory = Literal["group", "machine"]
"""What ran out of memory: the attempt's control group (a container, a job), or some process on the machine."""

_SIGNAL_HINTS = {
    "SIGTERM": "a person, a scheduler or a shutdown asked it to end, and it had no time to save",
    "SIGINT": "it was interrupted",
    "SIGHUP": "its terminal or session was closed",
    "SIGQUIT": "it was asked to quit",
    "SIGSEGV": "native code used memory that it does not own; the end of the log shows where Python was",
    "SIGBUS": "often because shared memory (/dev/shm), or the disk behind a memory-mapped file, was full",
    "SIGABRT": "native code aborted; the end of the log usually says why",
    "SIGILL": "native code was built for a different processor",
    "SIGFPE": "native code divided an integer by zero",
    "SIGSYS": "a sandbox blocked a system call",
    "SIGXCPU": "it used up its CPU time limit (ulimit -t)",
    "SIGXFSZ": "it wrote a file larger than its limit (ulimit -f)",
}


@dataclass(frozen=True)
class StopAsked:
    """A request to stop the attempt: a sentence that says why, and the signals that the supervisor sent for it."""

    sentence: str = "Stopped by request."
    sent: tuple[signal.Signals, ...] = ()
    received: str | None = None
    """Name of the signal to the supervisor that caused it; None for a request."""


def describe_exit(
    attempt: int,
    end: ProcessEnd,
    *,
    outcome: TrainerOutcome | None,
    progress: Progress | None,
    stop: StopAsked | None = None,
    out_of_memory: OutOfMemory | None = None,
    is_script: bool = False,
    joined: bool = True,
    last_line: str = "",
) -> AttemptExit:
    """Make the exit record. The trainer's own report counts most: it was written last, by the process that knows why.

    After a request to stop, the outcome is "stopped" even when the trainer had to be killed. A script reports before
    its exit code is known, so a nonzero code means a crash even after the report "finished". `joined` says whether the
    script called `relight.init`; if not, `last_line`, the last line of its log, becomes part of the reason.
    """
    step = max(outcome.step if outcome else 0, progress.step if progress else 0)
    if outcome is not None and not (outcome.outcome == "crashed" and stop is not None and stop.sent):
        kind, reason = outcome.outcome, _told_by_trainer(outcome, end, out_of_memory)
    elif stop is None and is_script and not joined:
        kind, reason = "crashed", _never_joined(end, last_line)
    elif stop is not None:
        kind, reason = "stopped", f"{stop.sentence} {_how_it_was_stopped(stop, step)}".strip()
    else:
        kind, reason = _judge(end, progress, out_of_memory)
    if is_script and kind == "finished" and end.exit_code:
        kind, reason = "crashed", f"The script ended with exit code {end.exit_code} at step {step}."
    return AttemptExit(
        attempt=attempt,
        time_s=time.time(),
        outcome=kind,
        exit_code=end.exit_code,
        signal=end.signal,
        step=step,
        reason=reason,
        error=outcome.error if outcome else None,
        traceback=outcome.traceback if outcome else None,
        stop_signal=(outcome.stop_signal if outcome else None) or (stop.received if stop else None),
        out_of_memory=out_of_memory,
    )


def _told_by_trainer(outcome: TrainerOutcome, end: ProcessEnd, out_of_memory: OutOfMemory | None) -> str:
    reason = outcome.reason
    if outcome.outcome == "crashed":
        reason = reason or outcome.error or "It crashed."
        if out_of_memory:
            where = "in its container or job" if out_of_memory == "group" else "on this machine"
            reason = f"{reason} The kernel's out-of-memory killer ended a process {where} at that time (see dmesg)."
    if end.signal:
        reason = f"{reason} It was ended by {end.signal} while it was closing down."
    return reason.strip()


def _judge(end: ProcessEnd, progress: Progress | None, out_of_memory: OutOfMemory | None) -> tuple[Outcome, str]:
    """Return outcome and reason for a trainer that reported nothing and was not asked to stop."""
    if end.signal == "SIGKILL":
        return "crashed", _killed(end, out_of_memory)
    if end.signal is not None:
        hint = _SIGNAL_HINTS.get(end.signal)
        return "crashed", f"Ended by {end.signal}: {hint}." if hint else f"Ended by {end.signal}."
    if end.exit_code is None:
        return "crashed", _ended_unseen(progress, out_of_memory)
    if end.exit_code == FINISHED_CODE:
        if progress is not None and progress.phase == "finished":
            return "finished", ""
        return "crashed", (
            f"The trainer ended with exit code 0 {_position(progress)}, before it was done: something called "
            "sys.exit() or os._exit()."
        )
    if end.exit_code == STOPPED_CODE:
        return "stopped", "Interrupted."
    return "crashed", f"The trainer ended with exit code {end.exit_code}. The end of its log may say why."


def _never_joined(end: ProcessEnd, last_line: str) -> str:
    how = f"was ended by {end.signal}" if end.signal else f"ended with exit code {end.exit_code}"
    return (
        f"The script {how} before it called relight.init(), so this attempt trained nothing. "
        f"{f'The last line of its log: {last_line}' if last_line else 'Its log is empty.'}"
    )


def _ended_unseen(progress: Progress | None, out_of_memory: OutOfMemory | None) -> str:
    ended = f"The process ended {_position(progress)} without reporting why"
    if out_of_memory:
        return f"{ended}. The kernel's out-of-memory killer probably ended it: run dmesg to check."
    return f"{ended}: possible causes are kill -9, a crash in native code and os._exit()."


def _how_it_was_stopped(stop: StopAsked, step: int) -> str:
    if signal.SIGKILL in stop.sent:
        return f"It did not reach a step edge in time and had to be killed at step {step}."
    if signal.SIGTERM in stop.sent:
        return f"It was ended by SIGTERM at step {step}."
    return ""


def _killed(end: ProcessEnd, out_of_memory: OutOfMemory | None) -> str:
    if out_of_memory == "group":
        why = " by the kernel's out-of-memory killer: its container or job reached its memory limit."
    elif out_of_memory == "machine":
        why = (
            ", probably by the kernel's out-of-memory killer, which ended a process on this machine at that time. Run "
            "dmesg to check."
        )
    else:
        why = ". If you did not send it, the kernel's out-of-memory killer may have: run dmesg to check."
    peak = f" Its memory use had peaked at {describe_bytes(end.peak_memory_bytes)}." if end.peak_memory_bytes else ""
    return f"Killed with SIGKILL{why}{peak}"


def _position(progress: Progress | None) -> str:
    if progress is None:
        return "before its first step"
    return f"at step {progress.step} of {progress.steps_total}" if progress.steps_total else f"at step {progress.step}"
