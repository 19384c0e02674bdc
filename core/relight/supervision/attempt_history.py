"""The run's attempts so far and how each ended, as far as that can be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from relight.errors import DamagedFile
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record_if_there
from relight.runs.records import AttemptExit, AttemptStart, Record

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class PastAttempt:
    """One attempt; `exit` is None when its end was never recorded (power, reboot) or the record is damaged."""

    start: AttemptStart
    exit: AttemptExit | None


def read_history(layout: RunLayout) -> list[PastAttempt]:
    """All attempts, oldest first. A start record that cannot be read counts as a start by a person."""
    return [_read_attempt(layout, number) for number in layout.list_attempts()]


def find_by_token(layout: RunLayout, token: str) -> int | None:
    """The newest attempt that was started with that token; None when there is none."""
    for number in reversed(layout.list_attempts()):
        start = read_or_none(layout.attempt(number).start, AttemptStart)
        if start is not None and start.token == token:
            return number
    return None


def read_or_none(path: Path, kind: type[R]) -> R | None:
    """The record, None when it is missing or damaged: for what is a help but not needed."""
    try:
        return read_record_if_there(path, kind)
    except DamagedFile:
        return None


def _read_attempt(layout: RunLayout, number: int) -> PastAttempt:
    attempt = layout.attempt(number)
    start = read_or_none(attempt.start, AttemptStart) or AttemptStart(attempt=number, time_s=0.0, reason="launch")
    return PastAttempt(start=start, exit=read_or_none(attempt.exit, AttemptExit))
