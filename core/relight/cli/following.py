"""Watches a run until it ends: progress bars on a terminal, plain lines in a pipe. The run does not need a watcher."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from relight.cli.ending import CRASHED, choose_exit_code, word_ending
from relight.cli.interruptions import Interruptions
from relight.cli.output import is_terminal, say, say_error, say_json
from relight.errors import RelightError
from relight.overview.story import Line, RunStory
from relight.overview.summary import RunSummary
from relight.runs.layout import RunLayout
from relight.runs.progress import Progress
from relight.runs.status import RunStatus

_POLL_S = 0.2
_TELL_EVERY_S = 1.0
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
    say_line, show = _say_trouble if json else _say_plainly, None
    with interruptions.watch(), contextlib.ExitStack() as stack:
        if is_terminal() and not json:
            from relight.cli.live_display import LiveDisplay

            display = stack.enter_context(LiveDisplay())
            say_line, show = display.say, display.show
        _watch(story, interruptions, stop_on_interrupt=stop_on_interrupt, say_line=say_line, show=show)
    summary = story.summary
    if summary.status.is_live:
        return 0
    code = choose_exit_code(summary)
    if json:
        say_json(summary)
        return code
    if summary.traceback and code == CRASHED:
        say(summary.traceback.rstrip())
    outcome, *rest = word_ending(summary, suffix=suffix)
    (say_error if code == CRASHED else say)(outcome)
    for line in rest:
        say(line)
    return code


@contextlib.contextmanager
def tell_story(layout: RunLayout, *, attempt: int, quiet: bool = False) -> Iterator[None]:
    """Print what happens to the run, from a thread, while this process supervises it; at the end, how it ended."""
    story, over = RunStory(layout, attempt), threading.Event()

    def tell() -> None:
        try:
            for line in story.poll():
                (_say_trouble if quiet else _say_plainly)(line)
        except RelightError as error:
            say_error(str(error))

    def follow() -> None:
        while not over.wait(_TELL_EVERY_S):
            tell()

    thread = threading.Thread(target=follow, name="story")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        tell()
    if not quiet:
        for text in word_ending(story.summary):
            say(text)


def _watch(
    story: RunStory,
    interruptions: Interruptions,
    *,
    stop_on_interrupt: bool,
    say_line: Callable[[Line], None],
    show: Callable[[RunSummary, Progress], None] | None,
) -> None:
    """Poll until the run has ended or the user has left."""
    heard, ended_at = 0, None
    while True:
        for line in story.poll():
            say_line(line)
        summary = story.summary
        if show is not None and summary.status.is_live:
            show(summary, story.progress)
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
    (say_error if line.kind == "trouble" else say)(line.text)


def _say_trouble(line: Line) -> None:
    if line.kind == "trouble":
        say_error(line.text)
