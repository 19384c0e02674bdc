"""`rename`, `note`, `tag`, `star` and `archive`: commands for what you write about a run yourself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relight.cli.options import (
    ORGANIZING,
    JsonOption,
    RunArgument,
    RunsArgument,
    RunsOption,
    examples,
    repeat_runs_option,
)
from relight.cli.output import say, say_json

if TYPE_CHECKING:
    from relight.runs.about import About
    from relight.runs.layout import RunLayout


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("rename", rich_help_panel=ORGANIZING, epilog=examples("relight rename digits-k3f9 'no dropout'"))(
        rename
    )
    app.command(
        "note",
        rich_help_panel=ORGANIZING,
        epilog=examples("relight note digits-k3f9 'diverges after 3 epochs'", "relight note digits-k3f9"),
    )(note)
    app.command(
        "tag",
        rich_help_panel=ORGANIZING,
        epilog=examples("relight tag digits-k3f9 vision baseline", "relight tag digits-k3f9 --remove baseline"),
    )(tag)
    app.command(
        "star",
        rich_help_panel=ORGANIZING,
        epilog=examples("relight star digits-k3f9", "relight star digits-k3f9 --off"),
    )(star)
    app.command(
        "archive",
        rich_help_panel=ORGANIZING,
        epilog=examples("relight archive digits-k3f9 trial-w2mc", "relight archive digits-k3f9 --undo"),
    )(archive)


def rename(
    run_name: RunArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.", show_default=False)],
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Give a run another name.

    Its ID and its folder keep their names, so links and scripts continue to work.
    """
    from relight.runs.about import change_about

    layout = _find(run_name, runs)
    about = change_about(layout, name=name)
    _tell(layout, about, f"{layout.run_id} is now called {about.name!r}.", json=json)


def note(
    run_name: RunArgument,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="The new note; '' removes it. Default: print it.", show_default=False),
    ] = None,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Write a note about a run, or print it.

    The text replaces the note that is there.
    """
    from relight.runs.about import change_about, read_about

    layout = _find(run_name, runs)
    about = read_about(layout).about if text is None else change_about(layout, note=text)
    if text is None:
        said = about.note or f"{layout.run_id} has no note. Write one with: relight note {layout.run_id} TEXT"
    else:
        said = f"Saved the note about {layout.run_id}." if about.note else f"Removed the note about {layout.run_id}."
    _tell(layout, about, said, json=json)


def tag(
    run_name: RunArgument,
    tags: Annotated[list[str] | None, typer.Argument(metavar="TAG...", help="Tags to add.", show_default=False)] = None,
    *,
    removed: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="TAG", help="Remove this tag; may be repeated.", show_default=False),
    ] = None,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Add tags to a run, remove them, or print them.

    A tag is one word. `relight list --filter tag:TAG` lists the runs that have it.
    """
    from relight.runs.about import change_about, read_about

    layout = _find(run_name, runs)
    if tags or removed:
        about = change_about(layout, add_tags=tags or (), remove_tags=removed or ())
    else:
        about = read_about(layout).about
    listed = ", ".join(about.tags) or "none"
    _tell(layout, about, f"Tags of {layout.run_id}: {listed}.", json=json)


def star(
    run_name: RunArgument,
    *,
    off: Annotated[bool, typer.Option("--off", help="Remove the star.")] = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Star a run.

    `relight list --filter starred` lists the runs with a star.
    """
    from relight.runs.about import change_about

    layout = _find(run_name, runs)
    about = change_about(layout, starred=not off)
    _tell(layout, about, f"Removed the star of {layout.run_id}." if off else f"Starred {layout.run_id}.", json=json)


def archive(
    run_names: RunsArgument,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Show the runs again.")] = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Leave runs out of the list.

    Nothing is deleted. `relight list --archived` shows them; a run that is training is always listed.
    """
    from relight.runs.about import change_about

    layouts = [_find(run_name, runs) for run_name in run_names]
    changed = [(layout, change_about(layout, archived=not undo)) for layout in layouts]
    if json:
        say_json([_list_facts(layout, about) for layout, about in changed])
        return
    names = [layout.run_id for layout in layouts]
    if undo:
        say(f"Listed again: {', '.join(names)}.")
    else:
        say(f"Archived {', '.join(names)}.")
        say(f"List again: relight archive {' '.join(names)} --undo{repeat_runs_option(runs)}")


def _find(run_name: str, runs: Path | None) -> RunLayout:
    from relight.runs.catalog import find_run, runs_folder

    return find_run(runs_folder(runs), run_name)


def _tell(layout: RunLayout, about: About, sentence: str, *, json: bool) -> None:
    if json:
        say_json(_list_facts(layout, about))
    else:
        say(sentence)


def _list_facts(layout: RunLayout, about: About) -> dict[str, Any]:
    from relight.runs.record_file import read_record_or_none
    from relight.runs.records import RunRecord

    record = read_record_or_none(layout.record, RunRecord)
    name = about.name or (layout.run_id if record is None else record.name)
    facts = {key: getattr(about, key) for key in ("note", "tags", "starred", "archived")}
    return {"run": layout.run_id, "name": name, **facts}
