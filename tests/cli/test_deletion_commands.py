"""`delete`, `trash` and `restore` ask before they remove anything, and say what that frees."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from relight.runs.trash import list_trash
from tests.cli.conftest import RELIGHT

if TYPE_CHECKING:
    from tests.cli.conftest import Ask, RunMaker


def test_without_a_terminal_a_deletion_needs_yes(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    answer = ask("delete", layout.run_id)
    assert answer.exit_code == 2
    assert "--yes" in answer.error
    assert layout.folder.exists()


def test_a_deleted_run_is_listed_in_the_trash_and_restored(ask: Ask, make_run: RunMaker, runs: Path) -> None:
    first, second = make_run("first"), make_run("second")
    said = ask("delete", "first", second.run_id, "--yes").stdout
    assert f"Moved {first.run_id}, {second.run_id} to the trash. In 7 days this frees " in said
    assert f"Restore: relight restore {first.run_id}" in said
    assert "There are no runs" in ask("list").stdout
    listed = ask("trash").stdout.splitlines()
    assert listed[0].split() == ["RUN", "DELETED", "REMOVED", "SIZE"]
    assert {line.split()[0] for line in listed[1:]} == {first.run_id, second.run_id}
    assert ask("trash", "--json").json[0]["removed_s"] > 0
    assert ask("restore", "first").stdout == f"Restored {first.run_id} in {first.folder}\n"
    assert first.folder.exists()
    assert ask("restore", "first").exit_code == 2


def test_a_dry_run_changes_nothing_and_names_what_stands_in_the_way(ask: Ask, make_run: RunMaker) -> None:
    layout, live = make_run(), make_run("live", outcome=None)
    said = ask("delete", layout.run_id, live.run_id, "--dry-run").stdout
    assert said.splitlines()[0].split() == ["RUN", "FREES", "FILES"]
    assert "cannot be deleted. Stop it first." in said
    plan = ask("delete", layout.run_id, "--dry-run", "--json").json
    assert (plan[0]["run"], plan[0]["refusal"]) == (layout.run_id, None)
    assert layout.folder.exists()


def test_one_run_that_trains_keeps_all_others(ask: Ask, make_run: RunMaker) -> None:
    layout, live = make_run(), make_run("live", outcome=None)
    answer = ask("delete", layout.run_id, live.run_id, "--yes")
    assert answer.exit_code == 1
    assert live.run_id in answer.error
    assert answer.error.endswith("Nothing was deleted.")
    assert layout.folder.exists()


def test_now_and_an_emptied_trash_leave_nothing(ask: Ask, make_run: RunMaker, runs: Path) -> None:
    first, second = make_run("first"), make_run("second")
    facts = ask("delete", first.run_id, "--now", "--yes", "--json").json
    assert [(fact["run"], fact["trash"]) for fact in facts] == [(first.run_id, None)]
    ask("delete", second.run_id, "--yes")
    assert ask("trash", "--empty").exit_code == 2
    assert "Removed 1 run from the trash" in ask("trash", "--empty", "--yes").stdout
    assert list_trash(runs) == []
    assert ask("trash").stdout == "The trash is empty.\n"


@pytest.mark.processes
@pytest.mark.parametrize(("typed", "deleted"), [(b"n\n", False), (b"y\n", True)])
def test_a_terminal_asks(make_run: RunMaker, typed: bytes, deleted: bool) -> None:
    layout = make_run()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(RELIGHT), "delete", layout.run_id],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, typed)
    said = b""
    while True:
        try:
            said += os.read(ours, 4096)
        except OSError:
            break
    os.close(ours)
    assert process.wait() == (0 if deleted else 130)
    assert b"to the trash for 7 days?" in said
    assert layout.folder.exists() is not deleted
