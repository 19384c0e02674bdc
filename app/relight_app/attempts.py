"""A run's attempts as the screen tells them: why each began, what it did, how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from relight.errors import DamagedFile
from relight.runs.fingerprint import read_changes, word_resume_caveat
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.progress import read_progress
from relight.runs.record_file import read_record_if_there
from relight.runs.records import AttemptExit, AttemptStart
from relight.runs.status import RunStatus


@dataclass(frozen=True)
class AttemptView:
    """One attempt. `ended_s` is None while it lives; `error` and `traceback` are whole."""

    number: int
    began_s: float | None
    why: str
    steps: str
    ended_s: float | None
    outcome: RunStatus
    reason: str = ""
    notes: tuple[str, ...] = ()
    error: str | None = None
    traceback: str | None = None
    has_exit_record: bool = False
    exit_code: int | None = None
    signal: str | None = None

    def lasted_s(self, now_s: float) -> float | None:
        """Seconds from its beginning to its end, or to now."""
        if not self.began_s:
            return None
        return max(0.0, (now_s if self.ended_s is None else self.ended_s) - self.began_s)


def list_attempts(layout: RunLayout, *, status: RunStatus, reason: str) -> list[AttemptView]:
    """All attempts, oldest first. `status` and `reason` are the run's own: the newest attempt's."""
    numbers = layout.list_attempts()
    return [
        _view_attempt(layout.attempt(number), status=status if last else None, reason=reason if last else "")
        for number, last in ((number, number == numbers[-1]) for number in numbers)
    ]


def _view_attempt(attempt: AttemptLayout, *, status: RunStatus | None, reason: str) -> AttemptView:
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
    return AttemptView(
        number=attempt.number,
        began_s=start.time_s if start is not None else None,
        why=_why(start),
        steps=f"{first + 1:,} to {step:,}" if step > first else "none",
        ended_s=None if live else ended_s,
        outcome=status,
        reason=reason or (exit.reason or exit.error or "" if exit is not None else ""),
        notes=(*(start.notes if start is not None else ()), *_caveat(attempt, start), *damaged),
        error=exit.error if exit is not None else None,
        traceback=exit.traceback if exit is not None else None,
        has_exit_record=exit is not None,
        exit_code=exit.exit_code if exit is not None else None,
        signal=exit.signal if exit is not None else None,
    )


def _caveat(attempt: AttemptLayout, start: AttemptStart | None) -> tuple[str, ...]:
    """Why it may not be bit-identical to what it went on from."""
    what = "branch" if start is not None and start.reason == "branch" else "resume"
    told = word_resume_caveat(read_changes(attempt.environment), what=what)
    return (told,) if told else ()


def _why(start: AttemptStart | None) -> str:
    if start is None:
        return "its start record is gone"
    came_from = f" from step {start.from_step:,}" if start.from_sequence is not None else " from the beginning"
    words = {"launch": "launched", "resume": "resumed", "restart": "restarted by itself", "branch": "branched"}
    return words[start.reason] + ("" if start.reason == "launch" and start.from_sequence is None else came_from)
