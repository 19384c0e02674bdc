"""A few random kills of each victim; `python -m tests.durability.kills` does hundreds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.durability.kills import VICTIMS, kill_often

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("kills")]
KILLS = int(os.environ.get("RELIGHT_KILLS", "5"))


@pytest.mark.parametrize("victim", VICTIMS)
def test_random_kills_tear_no_checkpoint_and_lose_nothing_acknowledged(tmp_path: Path, victim: str) -> None:
    figures = kill_often(tmp_path / "checkpoints", victim=victim, kills=KILLS, seed=os.getpid(), say=print)
    assert figures.kills >= KILLS
    assert figures.acknowledged > 0
    assert figures.compared > 0
