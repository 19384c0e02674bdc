"""How an attempt ended, in words: the exit record made from exit code, signal and what the trainer said itself."""

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
CRASHED_CODE = 3
STOPPED_CODE = 130

OutOfMemory = Literal["group", "machine"]
"""Who ran out of memory: the attempt's control group (a container, a job), or some process of the machine."""

_SIGNAL_HINTS = {
    "SIGTERM": "somebody, or the system, asked it to end and it had no time to save",
    "SIGINT": "somebody interrupted it",
    "SIGHUP": "its terminal or its session was closed",
    "SIGQUIT": "somebody quit it",
    "SIGSEGV": "native code used memory that is not its own; the end of the log shows where Python was",
    "SIGBUS": "often shared memory (/dev/shm) or a disk that was full behind a memory-mapped file",
    "SIGABRT": "native code gave up; the end of the log usually says why",
    "SIGILL": "native code was built for another processor than this one",
    "SIGFPE": "native code divided an integer by zero",
    "SIGSYS": "a sandbox forbade a system call",
    "SIGXCPU": "its limit of processor time was used up (ulimit -t)",
    "SIGXFSZ": "it wrote a file larger than its limit allows (ulimit -f)",
}


@dataclass(frozen=True)
class StopAsked:
    """That the attempt was to stop, why (a sentence), and which signals the supervisor had to send for it."""

    sentence: str = "Stopped by request."
    sent: tuple[signal.Signals, ...] = ()


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
    time_s: float | None = None,
) -> AttemptExit:
    """Make the exit record. What the trainer said itself counts most, since it wrote that last and knows why.

    Once a person asked to stop, the outcome is "stopped" even when the trainer had to be killed for it. A script
    cannot tell an end by `break` from one by an exit code of its own, so there the code counts; `joined` says whether
    it has called `relight.init`, and `last_line` is the last of its log, which tells why when it has not.
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
        time_s=time.time() if time_s is None else time_s,
        outcome=kind,
        exit_code=end.exit_code,
        signal=end.signal,
        step=step,
        reason=reason,
        error=outcome.error if outcome else None,
        traceback=outcome.traceback if outcome else None,
    )


def _told_by_trainer(outcome: TrainerOutcome, end: ProcessEnd, out_of_memory: OutOfMemory | None) -> str:
    reason = outcome.reason
    if outcome.outcome == "crashed":
        reason = reason or outcome.error or "It crashed."
        if out_of_memory:
            where = "of its container or job" if out_of_memory == "group" else "on this machine"
            reason = f"{reason} The kernel's out-of-memory killer ended a process {where} at that time: see `dmesg`."
    if end.signal:
        reason = f"{reason} While closing down it was ended by {end.signal}."
    return reason.strip()


def _judge(end: ProcessEnd, progress: Progress | None, out_of_memory: OutOfMemory | None) -> tuple[Outcome, str]:
    """What to make of a trainer that said nothing and was not asked to stop."""
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
            f"The trainer ended with exit code 0 at {_position(progress)}, before it was done: something called "
            "sys.exit() or os._exit()."
        )
    if end.exit_code == STOPPED_CODE:
        return "stopped", "Interrupted."
    return "crashed", f"The trainer ended with exit code {end.exit_code}; the end of its log may say why."


def _never_joined(end: ProcessEnd, last_line: str) -> str:
    how = f"was ended by {end.signal}" if end.signal else f"ended with exit code {end.exit_code}"
    return (
        f"The script {how} before it called relight.init(), so this attempt trained nothing. "
        f"{f'Its last words: {last_line}' if last_line else 'Its log is empty.'}"
    )


def _ended_unseen(progress: Progress | None, out_of_memory: OutOfMemory | None) -> str:
    where = f"It ended at {_position(progress)} without a word"
    if out_of_memory:
        return f"{where}, most likely by the kernel's out-of-memory killer: see `dmesg`."
    return f"{where}: by kill -9, a crash in native code, or os._exit()."


def _how_it_was_stopped(stop: StopAsked, step: int) -> str:
    if signal.SIGKILL in stop.sent:
        return f"It reached no step edge in time and had to be killed at step {step}."
    if signal.SIGTERM in stop.sent:
        return f"It was ended by SIGTERM at step {step}."
    return ""


def _killed(end: ProcessEnd, out_of_memory: OutOfMemory | None) -> str:
    if out_of_memory == "group":
        why = ": the kernel's out-of-memory killer ended it, because its container or job reached its memory limit."
    elif out_of_memory == "machine":
        why = (
            ", most likely by the kernel's out-of-memory killer, which ended a process on this machine at that time: "
            "see `dmesg`."
        )
    else:
        why = "; if nobody sent it, the kernel's out-of-memory killer may have: see `dmesg`."
    peak = f" It had used {describe_bytes(end.peak_memory_bytes)} at its peak." if end.peak_memory_bytes else ""
    return f"Killed by SIGKILL{why}{peak}"


def _position(progress: Progress | None) -> str:
    if progress is None:
        return "its very start"
    return f"step {progress.step} of {progress.steps_total}" if progress.steps_total else f"step {progress.step}"
