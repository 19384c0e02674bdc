"""Describes how a run ended: the outcome, what to type next, and the exit code."""

from __future__ import annotations

from relight.overview.summary import RunSummary
from relight.overview.summary_wording import word_best
from relight.runs.status import RunStatus
from relight.wording import count, describe_duration

FINISHED, CRASHED, STOPPED = 0, 3, 130

_EXIT_CODES = {
    RunStatus.FINISHED: FINISHED,
    RunStatus.STOPPED: STOPPED,
    RunStatus.CRASHED: CRASHED,
    RunStatus.INTERRUPTED: CRASHED,
}


def choose_exit_code(summary: RunSummary) -> int:
    """Return 0 for a finished run, 130 for a stopped one, 3 for a crashed or interrupted one."""
    return _EXIT_CODES.get(summary.status, FINISHED)


def word_ending(summary: RunSummary, *, suffix: str = "") -> list[str]:
    """Say in a few lines how the run ended and what to type next.

    `suffix` is appended to each suggested command, so that it finds the run again (" --runs DIR").
    """
    lines = [_word_outcome(summary)]
    best = word_best(summary)
    if best:
        lines.append(f"Best {best}.")
    if summary.status == "finished":
        if summary.best_missing:
            lines.append(summary.best_missing)
        if summary.durable_step is not None:
            command = f"relight export {summary.run}{suffix}"
            lines.append(f"Best weights: {command}" if best else f"Weights: {command} --which latest")
        return lines
    if summary.durable_step is not None:
        lines.append(f"The last checkpoint is at step {summary.durable_step}{_word_loss(summary)}.")
    else:
        lines.append("There is no checkpoint, so a resume starts from the beginning.")
    lines.append(f"Resume: relight resume {summary.run}{suffix}")
    return lines


def _word_outcome(summary: RunSummary) -> str:
    where = f" at step {summary.step}" + (f" of {summary.steps_total}" if summary.steps_total else "")
    if summary.status is RunStatus.FINISHED or not summary.reason:
        return f"{summary.run} {summary.status}{where}."
    if f"step {summary.step}" in summary.reason:
        where = ""
    return f"{summary.run} {summary.status}{where}: {summary.reason}"


def _word_loss(summary: RunSummary) -> str:
    if not summary.work_at_risk_steps:
        return ""
    steps = count(summary.work_at_risk_steps, "step")
    return f": {steps} ({describe_duration(summary.work_at_risk_s)}) must be trained again"
