"""Reproduces the table in `docs/checkpoint-format.md`: the same crashes, with the way other libraries write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints.simulator.peers import PEERS, Peer, states
from tests.checkpoints.simulator.trial import Verdict, try_all

DOCUMENT = Path(__file__).parents[2] / "docs" / "checkpoint-format.md"


def judge(peer: Peer, folder: Path, *, journaled: bool) -> Verdict:
    return try_all(peer.log, folder, journaled=journaled, existed=states(), recover=peer.recover)


def show(verdict: Verdict) -> str:
    return f"{verdict.nothing} / {verdict.older} / {verdict.wrong} of {verdict.disks}"


@pytest.mark.parametrize("make", PEERS, ids=lambda make: make.__name__)
def test_the_table_in_the_docs_is_what_the_simulator_finds(make: Callable[[], Peer], memory_path: Path) -> None:
    peer = make()
    verdicts = [judge(peer, memory_path / "crashed", journaled=journaled) for journaled in (True, False)]
    assert f"| {peer.name} | {show(verdicts[0])} | {show(verdicts[1])} |" in DOCUMENT.read_text()
    assert (verdicts[1].broken == 0) == (make.__name__ == "sync_everything")
