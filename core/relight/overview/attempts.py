"""A run's attempts: why each began, what it did, how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from relight.errors import DamagedFile
from relight.runs.fingerprint import read_changes, word_resume_caveat
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.progress import read_progress
from relight.runs.record_file import read_record_if_there, read_record_or_none
from relight.runs.records import AttemptExit, AttemptStart, ResumeCheck
from relight.runs.status import RunStatus
from relight.wording import count

_BEGINNINGS = {
    "launch": "launched",
    "resume": "resumed",
    "restart": "restarted automatically",
    "branch": "branched",
}


@dataclass(frozen=True)
class AttemptSummary:
    """One attempt."""

    number: int
    began_s: float | None
    beginning: str
    """Why it began: "resumed from step 260"."""
    steps: str
    """The steps that it trained: "261 to 600"."""
    ended_s: float | None
    """When it ended, or last wrote its progress; None while it is live."""
    outcome: RunStatus
    reason: str = ""
    notes: tuple[str, ...] = ()
    exit: AttemptExit | None = None
    """None while it is live, and after a death that nothing recorded."""

    def lasted_s(self, now_s: float) -> float | None:
        """Return the seconds from its beginning to its end, or to now."""
        if not self.began_s:
            return None
        return max(0.0, (now_s if self.ended_s is None else self.ended_s) - self.began_s)


def summarize_attempts(layout: RunLayout, *, status: RunStatus, reason: str) -> list[AttemptSummary]:
    """Summarize all attempts, oldest first. The run's `status` and `reason` are those of its newest attempt."""
    numbers = layout.list_attempts()
    return [
        _summarize(layout.attempt(number), status=status if last else None, reason=reason if last else "")
        for number, last in ((number, number == numbers[-1]) for number in numbers)
    ]


def _summarize(attempt: AttemptLayout, *, status: RunStatus | None, reason: str) -> AttemptSummary:
    start: AttemptStart | None = None
    exit: AttemptExit | None = None
    damaged: tuple[str, ...] = ()
    try:
        start = read_record_if_there(attempt.start, AttemptStart)
        exit = read_record_if_there(attempt.exit, AttemptExit)
    except DamagedFile as error:
        damaged = (str(error),)
    progress = read_progress(attempt.progress)
    live = status is not None and status.is_live
    ended_s = exit.time_s if exit is not None else (progress.time_s or None if progress is not None else None)
    if status is None:
        status = RunStatus(exit.outcome) if exit is not None else RunStatus.INTERRUPTED
    first = start.from_step if start is not None else 0
    step = progress.step if progress is not None else (exit.step if exit is not None else first)
    return AttemptSummary(
        number=attempt.number,
        began_s=start.time_s if start is not None else None,
        beginning=_word_beginning(start),
        steps=f"{first + 1:,} to {step:,}" if step > first else "none",
        ended_s=None if live else ended_s,
        outcome=status,
        reason=reason or (exit.reason or exit.error or "" if exit is not None else ""),
        notes=(
            *(start.notes if start is not None else ()),
            *_word_caveat(attempt, start),
            *_word_resume_check(attempt),
            *damaged,
        ),
        exit=exit,
    )


def _word_caveat(attempt: AttemptLayout, start: AttemptStart | None) -> tuple[str, ...]:
    """Say why the attempt may not be bit-identical to what it continues."""
    what = "branch" if start is not None and start.reason == "branch" else "resume"
    caveat = word_resume_caveat(read_changes(attempt.environment), what=what)
    return (caveat,) if caveat else ()


def _word_resume_check(attempt: AttemptLayout) -> tuple[str, ...]:
    check = read_record_or_none(attempt.resume_check, ResumeCheck)
    return () if check is None else (check.sentence,)


def _word_beginning(start: AttemptStart | None) -> str:
    if start is None:
        return "unknown: the start record is missing"
    origin = f" from step {start.from_step:,}" if start.from_sequence is not None else " from the beginning"
    launched = start.reason == "launch" and start.from_sequence is None
    where = ", ".join(sorted({agent.host for agent in start.torchrun}))
    ranks = f", {count(start.world_size, 'rank')} on {where}" if where else ""
    return _BEGINNINGS[start.reason] + ("" if launched else origin) + ranks
