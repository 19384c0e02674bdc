"""Says from which checkpoint a run starts or resumes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from relight.cli.output import say
from relight.wording import count

if TYPE_CHECKING:
    from relight.runs.layout import RunLayout
    from relight.runs.records import AttemptStart
    from relight.supervision.attempt_start import Launched


def tell_lines(lines: Iterable[str], *, json: bool) -> None:
    """Print lines, but not beside JSON."""
    if not json:
        for line in lines:
            say(line)


def word_start(launched: Launched) -> list[str]:
    """Say from which checkpoint a run resumes, which ones were skipped, and what will be trained again."""
    layout, attempt, reached = launched.layout, launched.attempt, launched.reached_step
    start = _read_start(layout, attempt)
    if start.from_sequence is None:
        lines = [f"{layout.run_id} starts from the beginning (attempt {attempt})."]
    else:
        lines = [f"{layout.run_id} resumes from its checkpoint at step {start.from_step} (attempt {attempt})."]
    lines += start.notes
    again = reached - start.from_step
    if again > 0:
        lines.append(f"It had reached step {reached}, so {count(again, 'step')} in all must be trained again.")
    return lines


def _read_start(layout: RunLayout, attempt: int) -> AttemptStart:
    from relight.runs.record_file import read_record
    from relight.runs.records import AttemptStart

    return read_record(layout.attempt(attempt).start, AttemptStart)
