"""`delete`, `trash` and `restore`: commands that remove runs and bring them back."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relight.cli.options import ORGANIZING, JsonOption, RunsArgument, RunsOption, examples, repeat_runs_option
from relight.cli.output import is_terminal, say, say_error, say_json, say_table
from relight.errors import RelightError, UsageError
from relight.wording import count, describe_age, describe_bytes, describe_duration, name_some

if TYPE_CHECKING:
    from relight.runs.trash import Deletion, TrashedRun

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        "delete",
        rich_help_panel=ORGANIZING,
        epilog=examples("relight delete digits-k3f9 trial-w2mc --dry-run", "relight delete digits-k3f9 --yes"),
    )(delete)
    app.command("trash", rich_help_panel=ORGANIZING, epilog=examples("relight trash", "relight trash --empty --yes"))(
        trash
    )
    app.command("restore", rich_help_panel=ORGANIZING, epilog=examples("relight restore digits-k3f9"))(restore)


def delete(
    run_names: RunsArgument,
    *,
    now: Annotated[bool, typer.Option("--now", help="Remove the runs at once, without the trash.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted. Change nothing.")] = False,
    yes: YesOption = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Move runs to the trash, where they are kept for 7 days.

    With --now they are removed at once. A run that is training is not deleted. Branches keep working, because they have
    their own copy of the checkpoint.
    """
    from relight.runs.catalog import find_run, runs_folder
    from relight.runs.trash import delete_run, plan_deletion, sweep_trash

    folder = runs_folder(runs)
    layouts = list(dict.fromkeys(find_run(folder, run_name) for run_name in run_names))
    plan = plan_deletion(layouts)
    if dry_run:
        if json:
            say_json(plan)
        else:
            _say_plan(plan)
        return
    if refusals := [deletion.refusal for deletion in plan if deletion.refusal]:
        raise RelightError(" ".join([*refusals, "Nothing was deleted."]))
    size = describe_bytes(sum(deletion.bytes for deletion in plan))
    which = f"{count(len(plan), 'run')} ({size})"
    question = f"Delete {which} for good?" if now else f"Move {which} to the trash for 7 days?"
    _confirm(question, plan=[] if json else plan, yes=yes)
    failed = False
    facts: list[dict[str, Any]] = []
    for layout, deletion in zip(layouts, plan, strict=True):
        try:
            entry = delete_run(layout, now=now)
        except RelightError as error:
            failed = True
            say_error(str(error))
            continue
        facts.append(
            {
                "run": deletion.run,
                "name": deletion.name,
                "bytes": deletion.bytes,
                "trash": entry.path if entry else None,
                "removed_s": entry.removed_s if entry else None,
            }
        )
    if json:
        say_json(facts)
    elif facts:
        _say_deleted([fact["run"] for fact in facts], size, now=now, suffix=repeat_runs_option(runs))
    sweep_trash(folder)
    if failed:
        raise typer.Exit(1)


def trash(
    *,
    empty: Annotated[bool, typer.Option("--empty", help="Remove everything in the trash at once.")] = False,
    yes: YesOption = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """List the runs in the trash, or empty it.

    A run is removed 7 days after it was deleted.
    """
    from relight.runs.catalog import runs_folder
    from relight.runs.trash import list_trash, sweep_trash

    folder = runs_folder(runs)
    entries = list_trash(folder)
    if empty and entries:
        size = describe_bytes(sum(entry.bytes for entry in entries))
        _confirm(f"Remove {count(len(entries), 'run')} ({size}) from the trash for good?", plan=[], yes=yes)
        sweep_trash(folder, everything=True)
    if json:
        say_json(entries)
    elif not entries:
        say("The trash is empty.")
    elif empty:
        say(f"Removed {count(len(entries), 'run')} from the trash: {size} freed.")
    else:
        _say_trash(entries)


def restore(
    run_name: Annotated[
        str, typer.Argument(metavar="RUN", help="ID or name of a run in the trash.", show_default=False)
    ],
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Bring a run back from the trash."""
    from relight.runs.catalog import runs_folder
    from relight.runs.trash import restore_run

    layout = restore_run(runs_folder(runs), run_name)
    if json:
        say_json({"run": layout.run_id, "path": str(layout.folder)})
    else:
        say(f"Restored {layout.run_id} in {layout.folder}")


def _confirm(question: str, *, plan: Sequence[Deletion], yes: bool) -> None:
    """Ask on a terminal; elsewhere `--yes` is the answer. Raises `typer.Abort` for a no."""
    if yes:
        return
    if not (sys.stdin.isatty() and is_terminal()):
        raise UsageError("There is no terminal to ask in. Add --yes to delete without a question.")
    if plan:
        _say_plan(plan)
    typer.confirm(question, abort=True)


def _say_plan(plan: Sequence[Deletion]) -> None:
    rows = [(_word_run(entry), describe_bytes(entry.bytes), count(entry.files, "file")) for entry in plan]
    say_table(("RUN", "FREES", "FILES"), rows, right=("FREES", "FILES"))
    for entry in plan:
        if entry.refusal:
            say(entry.refusal)
        if entry.exports:
            say(f"{entry.run} has {count(entry.exports, 'file')} of exported weights.")
        if entry.branches:
            say(f"Branches of {entry.run} keep working: {name_some(entry.branches)}.")


def _say_deleted(names: Sequence[str], size: str, *, now: bool, suffix: str) -> None:
    if now:
        say(f"Deleted {name_some(names)}: {size} freed.")
        return
    say(f"Moved {name_some(names)} to the trash. In 7 days this frees {size}; now: relight trash --empty{suffix}")
    say(f"Restore: relight restore {names[0]}{suffix}")


def _say_trash(entries: Sequence[TrashedRun]) -> None:
    now_s = time.time()
    rows = [
        (
            _word_run(entry),
            describe_age(entry.deleted_s, now_s=now_s),
            f"in {describe_duration(entry.removed_s - now_s)}",
            describe_bytes(entry.bytes),
        )
        for entry in entries
    ]
    say_table(("RUN", "DELETED", "REMOVED", "SIZE"), rows, right=("SIZE",))


def _word_run(entry: Deletion | TrashedRun) -> str:
    return entry.run if entry.run.startswith(f"{entry.name}-") else f"{entry.run} ({entry.name})"
