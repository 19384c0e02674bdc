"""Draws the progress bars that a terminal shows while a run trains, redrawn in place."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relight.overview.story import Line
from relight.overview.summary_wording import word_best, word_risk
from relight.wording import count, describe_duration, describe_rate, describe_value

if TYPE_CHECKING:
    from relight.overview.summary import RunSummary
    from relight.runs.progress import Progress

_STYLES = {"trouble": "bold yellow", "checkpoint": "dim", "end": "bold", "start": "bold", "epoch": "", "note": ""}
_PHASES = {
    "starting": "is starting",
    "training": "is training",
    "validating": "is validating",
    "saving": "is saving",
    "finished": "has finished and is closing",
}
_SHOWN = ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy")


def draw_progress(summary: RunSummary, progress: Progress) -> Group:
    """Draw the current state: epoch bar, overall bar, rate and time left, metric values, and what is saved."""
    bars = Table.grid(padding=(0, 2), expand=True)
    bars.add_column(no_wrap=True)
    bars.add_column(ratio=1, min_width=10)
    bars.add_column(no_wrap=True)
    if progress.batches:
        epoch = min(progress.epoch + 1, progress.epochs or progress.epoch + 1)
        name = f"epoch {epoch}/{progress.epochs}" if progress.epochs else f"epoch {epoch}"
        bars.add_row(name, _bar(progress.batch, progress.batches), f"{progress.batch}/{progress.batches} batches")
    if summary.steps_total:
        bars.add_row("overall", _bar(summary.step, summary.steps_total), f"{summary.step}/{summary.steps_total} steps")
    else:
        bars.add_row("overall", _bar(0, None), count(summary.step, "step"))
    return Group(
        Text(_word_state(summary, progress), style="bold", no_wrap=True), bars, _values(summary), _safety(summary)
    )


class LiveDisplay:
    """Progress bars at the bottom of the terminal, with lines above them. Leaving the context restores the cursor."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, summary: RunSummary, progress: Progress) -> None:
        """Redraw the bars."""
        self._live.update(draw_progress(summary, progress), refresh=True)

    def say(self, line: Line) -> None:
        """Print one line above the bars."""
        self._console.print(Text(line.text, style=_STYLES[line.kind]), soft_wrap=True)


def _bar(done: int, total: int | None) -> ProgressBar:
    return ProgressBar(total=total, completed=done, pulse=total is None, animation_time=float(done))


def _word_state(summary: RunSummary, progress: Progress) -> str:
    state = _PHASES[summary.phase] if summary.phase else "is waiting for its trainer"
    parts = [f"{summary.run} {state}"]
    if summary.attempt > 1:
        parts.append(f"attempt {summary.attempt}")
    rate = describe_rate(progress.rate)
    if rate:
        parts.append(rate)
    if summary.eta_s:
        parts.append(f"{describe_duration(summary.eta_s)} left")
    return "  ".join(parts)


def _values(summary: RunSummary) -> Text:
    shown = [f"{name} {describe_value(summary.metrics[name])}" for name in _SHOWN if name in summary.metrics]
    return Text("  ".join(shown), no_wrap=True, overflow="ellipsis")


def _safety(summary: RunSummary) -> Text:
    best = word_best(summary)
    if summary.saving_failure:
        return Text(f"not saved: {summary.saving_failure}", style="bold red", no_wrap=True, overflow="ellipsis")
    every = summary.pacing.sentence if summary.pacing is not None else ""
    safe = "nothing saved yet" if summary.durable_step is None else f"saved up to step {summary.durable_step}"
    risk = word_risk(summary)
    parts = [f"best {best}" if best else "", safe, f"at risk {risk}" if risk else "", every]
    return Text("  ".join(filter(None, parts)), style="dim", no_wrap=True, overflow="ellipsis")
