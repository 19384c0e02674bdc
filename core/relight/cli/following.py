"""Watches a run until it ends: progress bars on a terminal, plain lines in a pipe. The run does not need a watcher."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from relight.cli.ending import CRASHED, choose_exit_code, word_ending
from relight.cli.interruptions import Interruptions
from relight.cli.output import is_terminal, say, say_error, say_json
from relight.errors import RelightError
from relight.overview.story import Line, RunStory
from relight.runs.layout import RunLayout
from relight.runs.status import RunStatus

_POLL_S = 0.2
_AFTERMATH_S = 30.0
"""How long to wait for a supervisor to exit after its trainer has ended without a crash."""


def follow_run(
    layout: RunLayout,
    *,
    attempt: int,
    suffix: str = "",
    json: bool = False,
    stop_on_interrupt: bool = True,
    interruptions: Interruptions | None = None,
) -> int:
    """Show the run from attempt `attempt` on until it ends; return the exit code.

    With `json`, print one object at the end, the same as `relight show --json`. The first Ctrl-C asks the run to stop
    at its next step edge, the second to stop now; without `stop_on_interrupt`, Ctrl-C only ends the watching.
    `interruptions` may already have counted presses while the run was being launched.
    """
    story = RunStory(layout, attempt)
    interruptions = Interruptions() if interruptions is None else interruptions
    with interruptions.watch():
        if json:
            _watch(story, interruptions, stop_on_interrupt=stop_on_interrupt, say_line=_say_nothing, show=None)
        elif is_terminal():
            from relight.cli.live_display import LiveDisplay

            with LiveDisplay() as display:

                def show() -> None:
                    if story.summary.status.is_live:
                        display.show(story.summary, story.progress)

                _watch(story, interruptions, stop_on_interrupt=stop_on_interrupt, say_line=display.say, show=show)
        else:
            _watch(story, interruptions, stop_on_interrupt=stop_on_interrupt, say_line=_say_plainly, show=None)
    summary = story.summary
    if summary.status.is_live:
        return 0
    if json:
        say_json(summary)
    else:
        if summary.traceback and choose_exit_code(summary) == CRASHED:
            say(summary.traceback.rstrip())
        outcome, *rest = word_ending(summary, suffix=suffix)
        (say_error if choose_exit_code(summary) == CRASHED else say)(outcome)
        for line in rest:
            say(line)
    return choose_exit_code(summary)


def _watch(
    story: RunStory,
    interruptions: Interruptions,
    *,
    stop_on_interrupt: bool,
    say_line: Callable[[Line], None],
    show: Callable[[], None] | None,
) -> None:
    """Poll until the run has ended or the user has left."""
    heard, ended_at = 0, None
    while True:
        for line in story.poll():
            say_line(line)
        if show is not None:
            show()
        summary = story.summary
        if not summary.status.is_live and summary.pids.supervisor is None:  # which might have restarted the trainer
            return
        if summary.status.is_live:
            ended_at = None
        else:
            ended_at = time.monotonic() if ended_at is None else ended_at
            waited_s = time.monotonic() - ended_at
            if waited_s > _AFTERMATH_S and summary.status is not RunStatus.CRASHED:
                return
        if interruptions.count > heard:
            heard += 1
            if not stop_on_interrupt or heard > 2:
                say_line(Line("end", f"{summary.run} continues in the background."))
                return
            say_line(Line("trouble", _ask_to_stop(story.layout, now=heard > 1)))
        time.sleep(_POLL_S)


def _ask_to_stop(layout: RunLayout, *, now: bool) -> str:
    from relight.supervision.stop import stop_run

    try:
        stop_run(layout, now=now, wait_s=0)
    except RelightError as error:
        return str(error)
    if now:
        return "Stopping now, without another checkpoint."
    return "Stopping at the next step edge, with a checkpoint. Press Ctrl-C again to stop now, without one."


def _say_plainly(line: Line) -> None:
    if line.kind == "trouble":
        say_error(line.text)
    else:
        say(line.text)
    sys.stdout.flush()


def _say_nothing(line: Line) -> None:
    if line.kind == "trouble":
        say_error(line.text)
