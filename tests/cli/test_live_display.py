"""Progress bars in a terminal, drawn from a run's summary."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console

from relight.cli.live_display import draw_progress
from relight.overview.summary import RunSummary, summarize_run
from relight.runs.progress import Progress, read_progress

if TYPE_CHECKING:
    from tests.cli.conftest import RunMaker


def _draw(summary: RunSummary, progress: Progress, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(draw_progress(summary, progress))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def _look(make_run: RunMaker) -> tuple[RunSummary, Progress]:
    layout = make_run(outcome=None, step=23)
    progress = read_progress(layout.attempt(1).progress)
    assert progress is not None
    return summarize_run(layout), progress


def test_the_display_has_both_bars_rate_time_left_best_and_what_is_saved(make_run: RunMaker) -> None:
    summary, progress = _look(make_run)
    state, epoch, overall, values, safety = _draw(summary, progress)
    assert state.startswith(f"{summary.run} is training  2 steps/s  8.5 s left")
    assert epoch.startswith("epoch 2/2") and "13/10 batches" in epoch
    assert overall.startswith("overall") and "23/40 steps" in overall
    assert "train/loss 1.043" in values and "validation/accuracy 0.95" in values
    assert safety.startswith("best validation/accuracy 0.95 at step 20  saved up to step 20  at risk 3 steps, ")


def test_the_time_left_after_a_resume_is_at_the_rate_of_this_attempt() -> None:
    progress = Progress(step=1_010, steps_total=2_010, first_step=1_000, started_s=100.0, time_s=105.0)
    assert progress.rate == 2.0
    assert progress.eta_s == 500.0


def test_failing_saves_replace_what_is_safe(make_run: RunMaker) -> None:
    summary, progress = _look(make_run)
    failing = msgspec.structs.replace(summary, saving_failure="The disk is full.")
    assert _draw(failing, progress)[-1] == "not saved: The disk is full."


def test_a_waiting_run_of_unknown_length_can_be_drawn(make_run: RunMaker) -> None:
    summary, _ = _look(make_run)
    waiting = msgspec.structs.replace(
        summary,
        phase=None,
        steps_total=None,
        best=None,
        metrics={},
        durable_step=None,
        work_at_risk_steps=0,
        eta_s=None,
    )
    lines = _draw(waiting, Progress())
    assert lines[0].rstrip() == f"{summary.run} is waiting for its trainer"
    assert "23 steps" in lines[1]
    assert lines[-1].rstrip() == "nothing saved yet"


def test_a_narrow_terminal_gets_no_line_that_wraps(make_run: RunMaker) -> None:
    summary, progress = _look(make_run)
    lines = _draw(summary, progress, width=40)
    assert len(lines) == 5
    assert all(len(line) <= 40 for line in lines)
