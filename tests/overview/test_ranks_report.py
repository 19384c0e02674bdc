"""What each rank is doing, and on which card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relight.overview.ranks_report import find_card, list_rank_pids, report_ranks, word_rank
from relight.runs.process_identity import current_process
from relight.runs.record_file import write_record
from tests.runs.run_builder import RunBuilder


@pytest.mark.parametrize(
    ("device", "gpus", "card"),
    [
        ("cuda:1", (), 1),
        ("cuda:1", (0, 2), 2),
        ("cuda:2", (0, 2), None),
        ("cuda:", (), None),
        ("cpu", (0,), None),
        (None, (), None),
    ],
)
def test_the_card_is_the_one_that_nvidia_smi_shows(device: object, gpus: tuple[int, ...], card: int | None) -> None:
    assert find_card(device, gpus) == card


def test_a_rank_is_named_with_its_card_and_its_process(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path).start().layout
    me, own = current_process(), layout.of_rank(1).attempt(1)
    own.folder.mkdir(parents=True)
    write_record(own.rank_process, me, durable=False)
    own.environment.write_text(json.dumps({"device": "cuda:1"}))
    rank = report_ranks(layout, 1, world_size=2, gpus=(0, 2))[1]
    assert (rank.pid, rank.gpu) == (me.pid, 2)
    assert word_rank(rank) == f"rank 1 at step 0 on GPU 2 (pid {me.pid})"
    assert list_rank_pids(layout, 1) == {1: me.pid}
