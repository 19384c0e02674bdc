"""Code that a run's folder names runs without a question only where the run was made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from relight.errors import UntrustedRun
from relight.runs.catalog import create_run
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, write_record
from relight.runs.records import PreparedTask, RunRecord, TaskReference
from relight.supervision.branch import branch_run
from relight.supervision.resume import resume_run
from relight.supervision.trust import require_trust


def make_run(runs: Path, **task: object) -> RunLayout:
    """A run of a script that exists, without an attempt."""
    script = runs.parent / "train.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.touch()
    given = {"kind": "script", "name": "train.py", "path": str(script), "arguments": ("--lr", "a b")} | task
    return create_run(runs, PreparedTask(TaskReference(**given))).layout  # type: ignore[arg-type]


def ask(layout: RunLayout, *, trust: bool = False) -> None:
    require_trust(layout, read_record(layout.record, RunRecord), trust=trust)


def test_a_run_made_here_needs_no_trust_under_any_name(tmp_path: Path) -> None:
    layout = make_run(tmp_path / "runs")
    ask(layout)
    (tmp_path / "link").symlink_to("runs")
    ask(RunLayout(tmp_path / "link" / layout.run_id))
    layout.folder.rename(tmp_path / "runs" / "renamed")
    ask(RunLayout(tmp_path / "runs" / "renamed"))


def _copied(tmp_path: Path, layout: RunLayout) -> RunLayout:
    return RunLayout(shutil.copytree(layout.folder, tmp_path / "other" / "runs" / layout.run_id))


def _runs_moved(tmp_path: Path, layout: RunLayout) -> RunLayout:
    return RunLayout(layout.folder.parent.rename(tmp_path / "moved") / layout.run_id)


def _runs_replaced(tmp_path: Path, layout: RunLayout) -> RunLayout:
    """As on another machine, where the runs folder has the same path."""
    layout.folder.parent.rename(tmp_path / "kept")
    shutil.copytree(tmp_path / "kept", layout.folder.parent)
    return layout


def _unknown(tmp_path: Path, layout: RunLayout) -> RunLayout:
    write_record(layout.record, msgspec.structs.replace(read_record(layout.record, RunRecord), home=None))
    return layout


@pytest.mark.parametrize("elsewhere", [_copied, _runs_moved, _runs_replaced, _unknown])
def test_a_run_from_elsewhere_shows_its_command_and_runs_only_when_it_is_trusted(
    tmp_path: Path, elsewhere: Callable[[Path, RunLayout], RunLayout]
) -> None:
    made = make_run(tmp_path / "runs", python="/evil/python", working_folder="/work")
    layout = elsewhere(tmp_path, made)
    command = rf"/evil/python {tmp_path}/train\.py --lr 'a b' \(in /work\)"
    for start in (lambda: resume_run(layout), lambda: branch_run(layout, from_="latest", config_changes={})):
        with pytest.raises(UntrustedRun, match=rf"{command}\. .*relight resume {layout.run_id} --trust"):
            start()
    assert layout.list_attempts() == []
    ask(layout, trust=True)
    ask(layout)
    with pytest.raises(UntrustedRun):
        ask(_copied(tmp_path / "again", layout))


@pytest.mark.parametrize("named", ["python", "path", "working_folder"])
@pytest.mark.parametrize("by_link", [False, True])
def test_code_inside_the_folder_of_a_run_needs_trust_even_where_the_run_was_made(
    tmp_path: Path, named: str, by_link: bool
) -> None:
    hidden = make_run(tmp_path / "runs").exports / "tool"
    hidden.parent.mkdir()
    hidden.touch()
    (tmp_path / "tool").symlink_to(hidden)
    layout = make_run(tmp_path / "runs", **{named: str(tmp_path / "tool" if by_link else hidden)})
    with pytest.raises(UntrustedRun, match=r"names code inside the folder of a run \(.*tool\)"):
        ask(layout)
    ask(layout, trust=True)
    ask(layout)


def test_a_task_file_is_code_too_and_a_built_in_task_is_not(tmp_path: Path) -> None:
    for kind, refused in (("file", True), ("builtin", False)):
        layout = _copied(tmp_path, make_run(tmp_path / "runs", kind=kind))
        if refused:
            with pytest.raises(UntrustedRun, match=r"the code in .*train\.py"):
                ask(layout)
        else:
            ask(layout)
