"""The runs that something interrupted, such as a reboot at night, and resuming all of them at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from relight.errors import RelightError
from relight.overview.death_cause import INTERRUPTIONS, DeathCause
from relight.overview.summary import RunSummary, list_runs
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import AttemptStart
from relight.runs.run_record import read_run_record
from relight.supervision.attempt_start import Launched
from relight.supervision.resume import resume_run
from relight.supervision.trainer_command import check_script
from relight.supervision.trust import require_trust
from relight.wording import count, describe_age, describe_duration

RECENT_S = 7 * 86_400.0
"""A run that was interrupted before that is left alone: if you wanted it back, you would have resumed it."""


class InterruptedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that does not train any more, although nobody stopped it."""

    run: str
    name: str
    cause: DeathCause
    reason: str
    crashed: bool
    """Whether its own code or its limits ended it, so that a resume without a change may end in the same way."""
    died_s: float
    """When the last thing happened, in seconds since 1970."""
    lost_s: float
    lost_steps: int
    resumes_at: int
    """Step of the newest checkpoint; 0 without one."""
    obstacle: str | None
    """Why it is not resumed together with the others."""


class ResumeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of resuming one run. `attempt` is the new one; None when it was not resumed."""

    run: str
    name: str
    attempt: int | None
    sentence: str


def find_interrupted_runs(runs: Iterable[RunSummary], *, now_s: float | None = None) -> list[InterruptedRun]:
    """Return the interrupted and the crashed runs, the last one first: without stopped, archived and resumed ones."""
    now_s = time.time() if now_s is None else now_s
    found = [
        InterruptedRun(
            run=run.run,
            name=run.name,
            cause=run.cause,
            reason=run.reason,
            crashed=run.cause not in INTERRUPTIONS,
            died_s=run.updated_s,
            lost_s=run.work_at_risk_s,
            lost_steps=run.work_at_risk_steps,
            resumes_at=run.durable_step or 0,
            obstacle=_find_obstacle(run, now_s),
        )
        for run in runs
        if run.cause not in (None, "stopped") and not run.archived
    ]
    return sorted(found, key=lambda run: (-run.died_s, run.run))


def resume_interrupted_runs(folder: Path, *, crashed: bool = False, token: str | None = None) -> Iterator[ResumeResult]:
    """Resume every run that was interrupted in the last seven days, one after the other; with `crashed` those too.

    Each runs in its own processes. What stands in the way of one run stops no other. A call with the same `token` as an
    earlier one resumes nothing twice.
    """
    for found in find_interrupted_runs(list_runs(folder).runs):
        if found.crashed and not crashed:
            continue
        if found.obstacle is not None:
            yield _refuse(found, found.obstacle)
            continue
        try:
            launched = resume_run(RunLayout(folder / found.run), token=token and f"{token}-{found.run}")
        except (RelightError, OSError) as error:
            yield _refuse(found, str(error))
        else:
            yield ResumeResult(
                run=found.run, name=found.name, attempt=launched.attempt, sentence=_word_resume(launched)
            )


def word_interrupted(found: list[InterruptedRun], *, now_s: float) -> str:
    """Say it in one line: "4 runs were interrupted 6 h ago; 71 s of work lost."; "" for none.

    Only the runs that `resume_interrupted_runs` would try count.
    """
    waiting = [run for run in found if not run.crashed and run.obstacle is None]
    if not waiting:
        return ""
    verb = "was" if len(waiting) == 1 else "were"
    lost_s = sum(run.lost_s for run in waiting)
    lost = f"{describe_duration(lost_s)} of work lost" if lost_s >= 0.05 else "no work lost"
    age = describe_age(max(run.died_s for run in waiting), now_s=now_s)
    return f"{count(len(waiting), 'run')} {verb} interrupted {age}; {lost}."


def _find_obstacle(run: RunSummary, now_s: float) -> str | None:
    layout = RunLayout(Path(run.path))
    if run.cause == "other_machine":
        return f"{run.reason} Resume it there, or by its name here."
    if now_s - run.updated_s > RECENT_S:
        return f"It was interrupted {describe_age(run.updated_s, now_s=now_s)}. Resume it by its name, or archive it."
    try:
        record = read_run_record(layout)
        require_trust(layout, record)
        if record.task.kind == "script":
            check_script(record.task)
    except RelightError as error:
        return str(error)
    return None


def _refuse(found: InterruptedRun, why: str) -> ResumeResult:
    return ResumeResult(run=found.run, name=found.name, attempt=None, sentence=f"{found.run} was not resumed: {why}")


def _word_resume(launched: Launched) -> str:
    """Say where the run continues, how much is trained again, and which checkpoints were skipped."""
    layout, attempt = launched.layout, launched.attempt
    start = read_record(layout.attempt(attempt).start, AttemptStart)
    where = "starts from the beginning" if start.from_sequence is None else f"resumes from step {start.from_step}"
    again = launched.reached_step - start.from_step
    lost = f"; {count(again, 'step')} must be trained again" if again > 0 else ""
    return " ".join([f"{layout.run_id} {where} (attempt {attempt}){lost}.", *start.notes])
