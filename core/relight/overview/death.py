"""The facts about a dead run that a person asks for first: what ended it, what is lost, what to do now."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from relight.checkpoints.listing import CheckpointInfo
from relight.overview.culprit import Frame, find_culprit
from relight.overview.death_cause import DeathCause
from relight.overview.non_finite import NonFinite
from relight.overview.summary import RunSummary, summarize_evidence
from relight.runs.catalog import list_layouts
from relight.runs.evidence import Evidence, gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record_or_none
from relight.runs.records import AttemptProcesses, ResumeCheck
from relight.wording import count, describe_bytes, describe_duration

Action = Literal["resume", "fix_then_resume", "free_disk_then_resume", "free_gpu_then_resume", "branch", "launch"]
"""What to do. All that end in "resume" are a resume, after something that only a person can do."""

_TITLES: dict[DeathCause, str] = {
    "stopped": "Stopped by you",
    "stopped_by_signal": "Stopped by a shutdown or a signal",
    "exception": "An error ended the training",
    "gpu_memory": "Out of GPU memory",
    "disk_full": "The disk was full",
    "out_of_memory": "Out of memory: ended by the kernel",
    "killed": "Killed (SIGKILL)",
    "signal": "Ended by a signal",
    "fatal_signal": "Crashed in native code",
    "exit_code": "The script ended early",
    "ended_unseen": "Ended without a trace",
    "machine_restarted": "The machine was restarted",
    "supervisor_killed": "Its supervisor was killed",
    "other_machine": "Its machine has fallen silent",
    "never_started": "It never started",
    "unknown": "Cause unknown",
}
_OTHER_PROCESS = re.compile(r"Process (\d+) has ([\d.]+) ([KMGT]i?B) memory in use")
_THIS_PROCESS = re.compile(r"this process has ([\d.]+) ([KMGT]i?B) memory in use")
_WORTH_FREEING = 0.1
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class GpuUser(msgspec.Struct, frozen=True, kw_only=True):
    """A process that used the card when its memory ran out, as PyTorch's error names it."""

    pid: int | None
    """None for the run's own trainer."""
    bytes: int
    run: str | None = None
    """The run in the same folder whose trainer it is or was."""


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do next."""

    action: Action
    sentence: str
    step: int | None = None
    """The checkpoint to resume or branch from; None for the beginning."""


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run does not train, what that costs, and what to do."""

    cause: DeathCause
    title: str
    """A few words: "Out of GPU memory"."""
    sentence: str
    """What happened, in one or two sentences."""
    attempt: int
    died_s: float
    """When the last thing happened, in seconds since 1970."""
    step: int
    """The last step edge."""
    frame: Frame | None
    """The line that raised the error: in the user's own code if the traceback has such a line."""
    signal: str | None
    exit_code: int | None
    gpu_users: tuple[GpuUser, ...]
    """Who used the card, if its memory ran out and the error says it; the largest user first."""
    lost_s: float
    lost_steps: int
    resume_step: int | None
    """Step of the checkpoint that a resume takes; None for the beginning."""
    resume_verified: bool
    """Whether every byte of that checkpoint was read back when it was saved. A resume checks them again."""
    resume_check: ResumeCheck | None
    """What the last resume proved; None without a resume, or when it ended before it could compare a step."""
    was_resumed: bool
    """Whether the attempt that died was itself a resume or an automatic restart."""
    non_finite: NonFinite | None
    advice: Advice
    alternatives: tuple[Advice, ...]


def explain_death(layout: RunLayout) -> Death | None:
    """Return the facts about a dead run; None while it is live, after it has finished, and before it ever trained.

    Raises `DamagedFile` for a damaged run.json.
    """
    evidence = gather_evidence(layout)
    summary = summarize_evidence(evidence)
    if summary.cause is None:
        return None
    newest = _find_newest(layout)
    frame = find_culprit(summary.traceback)
    users = _find_gpu_users(layout, summary) if summary.cause == "gpu_memory" else ()
    advice, *others = _advise(evidence, summary, frame, users, newest)
    return Death(
        cause=summary.cause,
        title=_TITLES[summary.cause],
        sentence=_word_death(summary, frame),
        attempt=summary.attempt,
        died_s=summary.updated_s,
        step=summary.step,
        frame=frame,
        signal=evidence.exit.signal or evidence.exit.stop_signal if evidence.exit is not None else None,
        exit_code=evidence.exit.exit_code if evidence.exit is not None else None,
        gpu_users=users,
        lost_s=summary.work_at_risk_s,
        lost_steps=summary.work_at_risk_steps,
        resume_step=newest.step if newest is not None else None,
        resume_verified=newest is not None and newest.verified,
        resume_check=summary.resume_check,
        was_resumed=evidence.start is not None and evidence.start.reason in ("resume", "restart"),
        non_finite=summary.non_finite,
        advice=advice,
        alternatives=tuple(others),
    )


def _find_newest(layout: RunLayout) -> CheckpointInfo | None:
    """Return the newest checkpoint that is not known to be damaged."""
    from relight.checkpoints.store import CheckpointStore

    try:
        return max(CheckpointStore(layout.checkpoints).list().checkpoints, key=lambda info: info.name, default=None)
    except OSError:
        return None


def _word_death(summary: RunSummary, frame: Frame | None) -> str:
    sentence = summary.reason or summary.error or _TITLES[summary.cause or "unknown"]
    sentence = sentence if sentence.endswith((".", "…", "!", "?")) else f"{sentence}."
    return f"{sentence} It was raised at {frame.place}." if frame is not None and frame.own else sentence


def _advise(
    evidence: Evidence,
    summary: RunSummary,
    frame: Frame | None,
    users: tuple[GpuUser, ...],
    newest: CheckpointInfo | None,
) -> list[Advice]:
    """Return what to do, the right thing first."""
    step = newest.step if newest is not None else None
    resume = Advice(action="resume", sentence=_word_resume(summary, step), step=step)
    branch = Advice(
        action="branch", sentence=f"Branch from the checkpoint at step {step} with a changed config.", step=step
    )
    others = [resume, branch] if step is not None else [resume]
    first = _choose(evidence, summary, frame, users, resume)
    return [first, *(other for other in others if (other.action, other.step) != (first.action, first.step))]


def _choose(
    evidence: Evidence, summary: RunSummary, frame: Frame | None, users: tuple[GpuUser, ...], resume: Advice
) -> Advice:
    step, bad = resume.step, summary.non_finite
    if bad is not None and bad.healthy_step is not None:
        what = (
            f"Branch from the last healthy checkpoint, at step {bad.healthy_step}, with a lower learning rate or a fix."
        )
        return Advice(action="branch", sentence=what, step=bad.healthy_step)
    if bad is not None:
        return Advice(action="launch", sentence=f"{bad.sentence} Launch it again with a changed config.")
    match summary.cause:
        case "disk_full":
            return _before(resume, "free_disk_then_resume", "Free some space on the disk.")
        case "gpu_memory" if (other := _find_rival(users)) is not None:
            who = f"run {other.run}" if other.run else f"process {other.pid}"
            sentence = f"Free the card: {who} used {describe_bytes(other.bytes)} of it."
            return _before(resume, "free_gpu_then_resume", sentence)
        case "gpu_memory" if step is not None:
            return Advice(action="branch", sentence="Branch with a smaller batch, or a smaller model.", step=step)
        case "gpu_memory":
            return Advice(action="launch", sentence="Launch it again with a smaller batch, or a smaller model.")
        case "out_of_memory" if _ran_out_before(evidence) and step is not None:
            sentence = (
                "It ran out of memory twice in a row. Branch with less memory: a smaller batch, or fewer workers."
            )
            return Advice(action="branch", sentence=sentence, step=step)
        case "exception" if frame is not None and frame.own:
            return _before(resume, "fix_then_resume", f"Fix the code at {frame.place}.")
        case "exit_code":
            return _before(resume, "fix_then_resume", "Look at the end of the log, and fix the script.")
        case "exception" if step is not None:
            return _before(resume, "fix_then_resume", "Remove the cause that the error names.")
        case _:
            return resume


def _find_rival(users: tuple[GpuUser, ...]) -> GpuUser | None:
    """Return the other process that used most of the card; None when that is next to nothing, as for a desktop."""
    other = next((user for user in users if user.pid is not None), None)
    return other if other is not None and other.bytes > _WORTH_FREEING * sum(user.bytes for user in users) else None


def _before(resume: Advice, action: Action, sentence: str) -> Advice:
    return Advice(action=action, sentence=f"{sentence} {resume.sentence}", step=resume.step)


def _word_resume(summary: RunSummary, step: int | None) -> str:
    if step is None:
        return "Resume it: there is no checkpoint, so it starts from the beginning."
    if not summary.work_at_risk_steps:
        return f"Resume it from step {step}: nothing is lost."
    lost = f"{count(summary.work_at_risk_steps, 'step')} ({describe_duration(summary.work_at_risk_s)})"
    return f"Resume it from step {step}; {lost} must be trained again."


def _ran_out_before(evidence: Evidence) -> bool:
    """Return whether the attempt before ran out of memory, too."""
    before = [past.exit for past in evidence.history[:-1]][-1:]
    return any(exit is not None and exit.out_of_memory is not None for exit in before)


def _find_gpu_users(layout: RunLayout, summary: RunSummary) -> tuple[GpuUser, ...]:
    """Read from PyTorch's message which processes held the card's memory."""
    text = summary.error or ""
    users = [
        GpuUser(pid=int(pid), bytes=_read_bytes(number, unit)) for pid, number, unit in _OTHER_PROCESS.findall(text)
    ]
    if users:
        runs = _find_trainers(layout)
        users = [msgspec.structs.replace(user, run=runs.get(user.pid)) for user in users]
    users += [GpuUser(pid=None, bytes=_read_bytes(number, unit)) for number, unit in _THIS_PROCESS.findall(text)]
    return tuple(sorted(users, key=lambda user: -user.bytes))


def _read_bytes(number: str, unit: str) -> int:
    try:
        return int(float(number) * _UNITS[unit[0]])
    except (ValueError, OverflowError):
        return 0


def _find_trainers(layout: RunLayout) -> dict[int | None, str]:
    """Return the runs beside this one by the pid of their newest attempt's trainer."""
    found: dict[int | None, str] = {}
    for other in list_layouts(layout.folder.parent):
        processes = read_record_or_none(other.attempt(other.latest_attempt()).processes, AttemptProcesses)
        if processes is not None and processes.trainer is not None and other.run_id != layout.run_id:
            found[processes.trainer.pid] = other.run_id
    return found
