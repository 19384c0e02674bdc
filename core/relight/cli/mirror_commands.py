"""`mirror` and `fetch`: copy runs to S3 or to another disk, and bring them back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relight.cli.options import CHECKPOINTS, JsonOption, RunArgument, RunsOption, examples, repeat_runs_option
from relight.cli.output import is_terminal, say, say_error, say_json
from relight.errors import UsageError
from relight.wording import count, describe_bytes

if TYPE_CHECKING:
    from relight.mirror.fetching import FetchedRun
    from relight.runs.layout import RunLayout


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        "mirror",
        rich_help_panel=CHECKPOINTS,
        epilog=examples(
            "relight mirror digits-k3f9 s3://bucket/runs",
            "relight mirror digits-k3f9",
            "relight mirror digits-k3f9 --off",
        ),
    )(mirror)
    app.command(
        "fetch",
        rich_help_panel=CHECKPOINTS,
        epilog=examples("relight fetch s3://bucket/runs/digits-k3f9", "relight fetch /mnt/disk/runs/digits-k3f9"),
    )(fetch)


def mirror(
    run_name: RunArgument,
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]",
            help="s3://bucket/prefix or a folder on another disk. Default: as before, else $RELIGHT_MIRROR.",
            show_default=False,
        ),
    ] = None,
    *,
    off: Annotated[bool, typer.Option("--off", help="Stop copying. What is there stays there.")] = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Copy a run's checkpoints elsewhere.

    Copies what is missing there, now and from now on while the run trains. Credentials come from the environment
    (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, …).
    """
    from relight.mirror.address import check_place, choose_mirror
    from relight.mirror.mirroring import copy_now
    from relight.mirror.report import read_mirror, read_mirror_report, set_mirror, word_mirror
    from relight.runs.catalog import find_run, runs_folder

    layout = find_run(runs_folder(runs), run_name)
    if off:
        if url is not None:
            raise UsageError("--off takes no URL.")
        layout.mirror.unlink(missing_ok=True)
        if json:
            say_json({"run": layout.run_id, "mirror": None})
        else:
            say(f"{layout.run_id} is not copied any more.")
        return
    address = choose_mirror(url) if url is not None else read_mirror(layout) or choose_mirror(None)
    if address is None:
        raise UsageError(f"Say where to copy the run: relight mirror {layout.run_id} s3://bucket/prefix")
    check_place(address, layout.folder.parent)
    set_mirror(layout, address)
    with _progress("copying") as show:
        copy_now(layout, on_state=lambda state: show(-state.waiting_bytes, 0))
    report = read_mirror_report(layout)
    if json:
        say_json({"run": layout.run_id, "mirror": report})
    elif report is not None:
        say(word_mirror(report, now_s=time.time()))


def fetch(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="Mirror and run: s3://bucket/prefix/RUN, or /folder/RUN.", show_default=False
        ),
    ],
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch the copy of a run into the runs folder.

    Verifies every byte before the run appears. After a broken connection, the same command continues where it stopped.
    A run that is resumed here is copied on to the same place.
    """
    from relight.mirror.address import split_run_url
    from relight.mirror.fetching import fetch_run
    from relight.runs.catalog import runs_folder

    address, run_id = split_run_url(url)
    with _progress("fetching") as show:
        fetched = fetch_run(address, run_id, runs_folder(runs), on_progress=show)
    layout = fetched.layout
    if json:
        say_json(
            {
                "run": layout.run_id,
                "path": str(layout.folder),
                "checkpoints": fetched.checkpoints,
                "bytes": fetched.bytes,
                "notes": fetched.notes,
            }
        )
        return
    _say_fetched(fetched)
    say(f"Resume: relight resume {layout.run_id}{repeat_runs_option(runs)}")


def fetch_unless_here(url: str, runs: Path | None, *, json: bool) -> RunLayout:
    """Return the run of which `url` is the copy; fetch it if the runs folder does not have it."""
    from relight.mirror.address import split_run_url
    from relight.mirror.fetching import FetchedRun, find_or_fetch
    from relight.runs.catalog import runs_folder

    address, run_id = split_run_url(url)
    with _progress("fetching") as show:
        found = find_or_fetch(address, run_id, runs_folder(runs), on_progress=show)
    if not isinstance(found, FetchedRun):
        return found
    if not json:
        _say_fetched(found)
    return found.layout


def _say_fetched(fetched: FetchedRun) -> None:
    what = f"{count(fetched.checkpoints, 'checkpoint')} ({describe_bytes(fetched.bytes)})"
    say(f"Fetched {fetched.layout.run_id} to {fetched.layout.folder}: {what}, every byte verified.")
    for note in fetched.notes:
        say_error(note)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal. The function takes (bytes done, bytes in all); without a total, minus what is left."""
    if not is_terminal():
        yield lambda _done, _total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(what, BarColumn(), DownloadColumn(), TimeRemainingColumn(), transient=True) as progress:
        bar = progress.add_task("", total=None)
        most = 0

        def show(done: int, total: int) -> None:
            nonlocal most
            if not total:
                most = max(most, -done)
                done, total = most + done, most
            progress.update(bar, completed=done, total=total or None)

        yield show
