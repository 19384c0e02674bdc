"""`relight mirror` and `relight fetch`, and the URL of a copy in place of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.checkpoints.store import CheckpointStore
from relight.mirror.report import read_mirror
from relight.runs.layout import RunLayout
from tests.cli.conftest import Ask, RunMaker


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    folder = tmp_path / "other disk"
    folder.mkdir()
    return folder


def _verify(layout: RunLayout) -> None:
    """Mark the checkpoints as a training does: without that, a run that counts as live is not copied."""
    store = CheckpointStore(layout.checkpoints)
    for info in store.list().checkpoints:
        store.mark_verified(info)


def test_a_run_is_copied_shown_fetched_and_copied_on(
    ask: Ask, make_run: RunMaker, copies: Path, tmp_path: Path
) -> None:
    run = make_run()
    _verify(run)
    told = ask("mirror", run.run_id, str(copies))
    assert told.stdout == f"Copied to {copies}/{run.run_id} up to step 20, just now.\n"
    assert ask("mirror", run.run_id, "--json").json["mirror"]["copied_step"] == 20
    assert f"mirror               Copied to {copies}/{run.run_id} up to step 20" in ask("show", run.run_id).stdout
    shown = ask("show", run.run_id, "--json").json["mirror"]
    assert (shown["checkpoints"], shown["waiting_checkpoints"], shown["failure"]) == (2, 0, None)
    fresh = tmp_path / "fresh"
    told = ask("fetch", f"{copies}/{run.run_id}", "--runs", str(fresh))
    assert "2 checkpoints" in told.stdout
    assert "every byte verified" in told.stdout
    fetched = RunLayout(fresh / run.run_id)
    stores = [CheckpointStore(layout.checkpoints) for layout in (run, fetched)]
    assert stores[0].digest(stores[0].find("latest")) == stores[1].digest(stores[1].find("latest"))
    assert ask("verify", run.run_id, "--runs", str(fresh)).exit_code == 0
    address = read_mirror(fetched)
    assert address is not None
    assert address.url == str(copies)


def test_copying_can_be_turned_off(ask: Ask, make_run: RunMaker, copies: Path) -> None:
    run = make_run()
    ask("mirror", run.run_id, str(copies))
    assert ask("mirror", run.run_id, "--off").stdout == f"{run.run_id} is not copied any more.\n"
    assert ask("show", run.run_id, "--json").json["mirror"] is None
    assert (copies / run.run_id / "run.json").exists()


def test_the_environment_names_the_mirror(
    ask: Ask, make_run: RunMaker, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    assert "Say where to copy the run" in ask("mirror", run.run_id).error
    monkeypatch.setenv("RELIGHT_MIRROR", str(copies))
    assert ask("mirror", run.run_id).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["mirror", "RUN", "s3://key:s3cr3t@bucket/x"], 2, "must not contain a user, a password"),
        (["run", "digits", "--mirror", "s3://key:s3cr3t@bucket/x"], 2, "must not contain a user, a password"),
        (["run", "digits", "--mirror", "/not/there"], 2, "does not exist. Create that folder, or mount its disk"),
        (["mirror", "RUN", "RUNS"], 2, "is inside the runs folder"),
        (["mirror", "RUN", "/tmp", "--off"], 2, "--off takes no URL"),
        (["mirror", "RUN", "copies"], 2, "is not a place for a mirror"),
        (["fetch", "COPIES/nothing-here"], 1, "There is no run 'nothing-here'"),
        (["fetch", "s3://bucket"], 2, "does not name a run"),
        (["resume", "COPIES/nothing-here"], 1, "There is no run 'nothing-here'"),
    ],
)
def test_errors_are_one_line(
    ask: Ask, make_run: RunMaker, copies: Path, runs: Path, arguments: list[str], code: int, sentence: str
) -> None:
    run = make_run()
    replaced = [
        one.replace("COPIES", str(copies)).replace("RUNS", str(runs)).replace("RUN", run.run_id) for one in arguments
    ]
    answer = ask(*replaced)
    assert answer.exit_code == code
    assert sentence in answer.error
    assert "s3cr3t" not in answer.stdout + answer.stderr


def test_a_resume_by_url_refuses_a_run_that_is_behind_its_copy(
    ask: Ask, make_run: RunMaker, copies: Path, tmp_path: Path
) -> None:
    run = make_run(outcome="stopped")
    _verify(run)
    ask("mirror", run.run_id, str(copies))
    fresh = str(tmp_path / "fresh")
    ask("fetch", f"{copies}/{run.run_id}", "--runs", fresh)
    make_run.commit(run, step=30)
    _verify(run)
    ask("mirror", run.run_id)
    answer = ask("resume", f"{copies}/{run.run_id}", "--runs", fresh)
    assert answer.exit_code == 1
    assert "is ahead of the run in" in answer.error
