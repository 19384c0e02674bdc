"""A short soak of each victim; `make soak` runs the long one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import soak

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("soak"), pytest.mark.timeout(600)]

KILLS = 2
CONFIG = {**soak.CONFIG, "epochs": 8}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[soak.Reference]:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference")
    yield soak.Reference(folder, CONFIG)
    soak.end_everything(folder)


@pytest.mark.parametrize("victim", soak.VICTIMS)
def test_killed_at_random_moments_a_run_loses_nothing_and_ends_in_the_same_state(
    tmp_path: Path, reference: soak.Reference, victim: str
) -> None:
    try:
        figures = soak.soak(tmp_path, reference, CONFIG, victim=victim, kills=KILLS, seed=os.getpid(), say=print)
    finally:
        soak.end_everything(tmp_path)
    assert figures.kills == KILLS
