"""A short soak of each victim; `make soak` runs a long one."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import soak
from relight.overview.summary import summarize_run
from relight.runs.status import RunStatus

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("soak"), pytest.mark.timeout(600)]

KILLS = 2
OFTEN = ("trainer", "everything")
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
