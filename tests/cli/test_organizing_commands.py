"""`rename`, `note`, `tag`, `star` and `archive` change what a person says about a run, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Ask, RunMaker


def test_a_renamed_run_is_found_and_listed_by_its_new_name(ask: Ask, make_run: RunMaker) -> None:
    run = make_run("first").run_id
    assert ask("rename", "first", "no dropout").stdout == f"{run} is now called 'no dropout'.\n"
    assert ask("show", "no dropout", "--json").json["run"] == run
    assert f"{run} (no dropout)" in ask("list").stdout
    assert ask("list", "--json").json[0]["name"] == "no dropout"
    assert ask("rename", run, " ").exit_code == 2


def test_a_note_is_written_printed_and_removed(ask: Ask, make_run: RunMaker) -> None:
    run = make_run().run_id
    assert "relight note" in ask("note", run).stdout
    assert ask("note", run, "diverges after 3 epochs").stdout == f"Saved the note about {run}.\n"
    assert ask("note", run).stdout == "diverges after 3 epochs\n"
    assert "diverges after 3 epochs" in ask("show", run).stdout
    assert ask("note", run, "").stdout == f"Removed the note about {run}.\n"
    assert ask("show", run, "--json").json["note"] == ""


def test_tags_are_added_removed_and_printed(ask: Ask, make_run: RunMaker) -> None:
    run = make_run().run_id
    assert ask("tag", run).stdout == f"Tags of {run}: none.\n"
    assert ask("tag", run, "vision", "baseline").stdout == f"Tags of {run}: baseline, vision.\n"
    assert ask("tag", run, "new", "--remove", "vision", "--json").json["tags"] == ["baseline", "new"]
    assert ask("tag", run, "two words").exit_code == 2
    assert ask("show", run, "--json").json["tags"] == ["baseline", "new"]


def test_a_star_comes_and_goes(ask: Ask, make_run: RunMaker) -> None:
    run = make_run().run_id
    assert ask("star", run).stdout == f"Starred {run}.\n"
    assert ask("star", run).exit_code == 0
    assert ask("show", run, "--json").json["starred"] is True
    assert ask("star", run, "--off").stdout == f"Removed the star of {run}.\n"
    assert ask("star", run, "--off", "--json").json == {
        "run": run, "name": "digits", "note": "", "tags": [], "starred": False, "archived": False,
    }  # fmt: skip


def test_several_runs_are_archived_at_once_or_none(ask: Ask, make_run: RunMaker) -> None:
    first, second = make_run("first").run_id, make_run("second").run_id
    assert ask("archive", first, "missing").exit_code == 2
    assert ask("show", first, "--json").json["archived"] is False
    answer = ask("archive", first, second)
    assert answer.stdout.splitlines()[0] == f"Archived {first}, {second}."
    assert f"relight archive {first} {second} --undo" in answer.stdout
    facts = ask("archive", first, "--undo", "--json").json
    assert [(fact["run"], fact["archived"]) for fact in facts] == [(first, False)]
