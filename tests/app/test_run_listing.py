"""The list of runs in memory is what a fresh reading gives, and reads a dead run only once."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from relight.metrics.writer import MetricWriter
from relight.overview.summary import list_runs
from relight.runs.about import change_about
from relight_app import run_listing
from relight_app.run_listing import KnownRuns
from tests.app.sample_runs import SampleRun, make_run


def _age(folder: Path) -> None:
    """Make everything in the folder an hour older."""
    then = time.time() - 3600
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (then, then), follow_symlinks=False)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that are read."""
    names: list[str] = []
    summarize = run_listing.summarize_run

    def note(layout: run_listing.RunLayout, **options: bool) -> run_listing.RunSummary:
        names.append(layout.run_id)
        return summarize(layout, **options)

    monkeypatch.setattr(run_listing, "summarize_run", note)
    return names


def test_only_what_changed_is_read_again(tmp_path: Path, read: list[str]) -> None:
    dead = [make_run(tmp_path, SampleRun(name, status="finished")) for name in ("a", "b", "c")]
    _age(tmp_path)
    known = KnownRuns(tmp_path)
    assert known.list() == list_runs(tmp_path)
    read.clear()
    assert known.list() == list_runs(tmp_path) and read == []
    change_about(dead[0], note="a note")
    writer = MetricWriter(dead[1].metrics, stream="train", attempt=1)
    writer.log(10_000, {"loss": 0.5})
    writer.close()
    shutil.rmtree(dead[2].folder)
    listing = known.list()
    assert listing == list_runs(tmp_path) and sorted(read) == sorted(layout.run_id for layout in dead[:2])
    assert {run.note for run in listing.runs} == {"a note", ""}


def test_a_live_run_and_one_that_has_just_changed_are_read_each_time(tmp_path: Path, read: list[str]) -> None:
    live = make_run(tmp_path, SampleRun("live", status="running"))
    _age(tmp_path)
    fresh = make_run(tmp_path, SampleRun("fresh", status="finished"))
    known = KnownRuns(tmp_path)
    known.list()
    read.clear()
    known.list()
    known.list()
    assert sorted(read) == sorted([live.run_id, fresh.run_id] * 2)


def test_a_damaged_run_is_listed_as_damaged(tmp_path: Path) -> None:
    layout = make_run(tmp_path, SampleRun("x", status="finished"))
    _age(tmp_path)
    known = KnownRuns(tmp_path)
    known.list()
    layout.record.write_text("{")
    assert known.list() == list_runs(tmp_path) and known.list().damaged[0].run == layout.run_id
