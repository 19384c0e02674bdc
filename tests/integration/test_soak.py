"""A short soak of each victim; `make soak` runs a long one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import soak
from relight.mirror.address import parse_mirror
from relight.overview.summary import summarize_run
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import MirrorState
from relight.runs.status import RunStatus
from tests.mirror.s3_stand_in import StandIn

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("soak"), pytest.mark.timeout(600)]

KILLS = 2
OFTEN = ("everything",)
CONFIG = {**soak.CONFIG, "epochs": 8}
DEATHS = 5


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[soak.Reference]:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference")
    yield soak.Reference(folder, CONFIG)
    soak.end_everything(folder)


@pytest.mark.parametrize(
    "victim",
    [one if one in OFTEN else pytest.param(one, marks=pytest.mark.thorough) for one in soak.VICTIMS],
)
def test_a_run_killed_at_random_moments_loses_nothing_and_ends_in_the_same_state(
    tmp_path: Path, reference: soak.Reference, victim: str
) -> None:
    try:
        figures = soak.soak(tmp_path, reference, CONFIG, victim=victim, kills=KILLS, seed=os.getpid(), say=print)
    finally:
        soak.end_everything(tmp_path)
    assert figures.kills == KILLS


@pytest.mark.thorough
def test_a_training_whose_writers_all_die_continues_reports_it_and_saves_its_end(
    tmp_path: Path, reference: soak.Reference
) -> None:
    layout = soak.launch(tmp_path, CONFIG | soak.EVERY_STEP, name="writers die")
    killed: set[int] = set()
    told: set[str] = set()

    def watch() -> bool:
        now = summarize_run(layout)
        told.update(filter(None, [now.saving_failure]))
        writer = now.pids.writer
        if writer is not None and writer not in killed and len(killed) < DEATHS:
            with contextlib.suppress(ProcessLookupError):
                os.kill(writer, signal.SIGKILL)
                killed.add(writer)
        return not now.status.is_live

    try:
        soak.wait_for(watch, why="the run to end")
        assert summarize_run(layout).status is RunStatus.FINISHED
        assert len(killed) == DEATHS
        assert any("nothing is saved at the moment" in sentence for sentence in told), told
        assert soak.digest(layout) == reference.digest
        assert summarize_run(layout).saving_failure is None
    finally:
        soak.end_everything(tmp_path)


def test_a_run_whose_machine_is_lost_is_fetched_and_ends_in_the_same_state(
    tmp_path: Path, reference: soak.Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = StandIn()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    lost, fresh = tmp_path / "lost", tmp_path / "fresh"
    try:
        layout = soak.launch(lost, CONFIG, name="mirrored", mirror=parse_mirror("s3://bucket/runs"))
        url = f"s3://bucket/runs/{layout.run_id}"
        soak.wait_for(lambda: _copied_step(layout) > 40, why="a copy of the second epoch")
        mirror = read_record(layout.mirror_state, MirrorState).process
        soak.end_everything(lost)
        assert mirror is not None
        os.kill(mirror.pid, signal.SIGKILL)
        shutil.rmtree(lost)
        resume = [sys.executable, "-P", "-m", "relight.cli", "resume", url, "--runs", str(fresh), "--trust", "--detach"]
        told = subprocess.run(resume, check=True, capture_output=True, text=True, timeout=120).stdout
        assert "every byte verified" in told
        fetched = RunLayout(fresh / layout.run_id)
        soak.wait_for(lambda: not summarize_run(fetched).status.is_live, why="the run to end")
        reference.compare(fetched)
        soak.wait_for(lambda: _copied_step(fetched) == reference.steps, why="the copy of the last checkpoint")
        soak.wait_for(lambda: f"runs/{layout.run_id}/attempts/0002/exit.json" in server.bucket.objects, why="its end")
    finally:
        soak.end_everything(lost)
        soak.end_everything(fresh)
        server.stop()


def _copied_step(layout: RunLayout) -> int:
    mirror = summarize_run(layout).mirror
    return mirror.copied_step or 0 if mirror is not None else 0
