"""What the callbacks for Lightning and the HF Trainer share; their own tests need those frameworks."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from relight.errors import RelightError, TaskError
from relight.training.framework_parts import EpochLoader, check_ranks

DATA = TensorDataset(torch.arange(20))


@dataclass
class _Group:
    rank: int
    world_size: int

    def follow(self, _what: int, *, value: int) -> int:
        return 7  # rank 0's seed


def _run(group: _Group | None = None) -> Any:
    return SimpleNamespace(group=group)


def _load(batch_size: int, *, group: _Group | None = None, seed: int = 1) -> EpochLoader:
    return EpochLoader(DataLoader(DATA, batch_size, shuffle=True), _run(group), seed=seed)


def test_ranks_deal_one_order_even_if_they_are_seeded_differently() -> None:
    first, second = (_load(4, group=_Group(rank, 2), seed=rank) for rank in (0, 1))
    pairs = [torch.cat([one, other]).tolist() for (one,), (other,) in zip(first, second, strict=True)]
    assert [len(pair) for pair in pairs] == [8, 8, 4]
    assert sorted(itertools.chain(*pairs)) == list(range(20))
    assert pairs == [batch.tolist() for (batch,) in _load(8, seed=7)]


def test_a_position_counts_for_any_number_of_ranks_with_the_same_batch_of_all_of_them() -> None:
    before = _load(4, group=_Group(0, 2))
    next(iter(before))
    state = before.state_dict()
    after = _load(8)
    after.load_state_dict(state)
    (batch,) = next(iter(after))
    assert batch.tolist() == [one.tolist() for (one,) in _load(8, seed=7)][1]
    other = _load(4)
    with pytest.raises(
        TaskError, match="A batch of all ranks had 8 samples when the checkpoint was saved, and has 4 now"
    ):
        other.load_state_dict(state)


def test_processes_that_are_not_the_runs_ranks_are_refused() -> None:
    check_ranks(_run(), "Lightning", processes=1)
    check_ranks(_run(_Group(0, 2)), "Lightning", processes=2)
    with pytest.raises(RelightError, match=r"Lightning trains in 2 processes, and the run has 1 rank\. Start one"):
        check_ranks(_run(), "Lightning", processes=2)
    with pytest.raises(RelightError, match="The Trainer trains in 1 process, and the run has 2 ranks"):
        check_ranks(_run(_Group(1, 2)), "The Trainer", processes=1)


@pytest.mark.processes
def test_a_process_that_a_framework_has_started_makes_no_run_of_its_own(tmp_path: Path) -> None:
    script = tmp_path / "fit.py"
    script.write_text("import relight\nrelight.init()\n")
    environment = {**os.environ, "RELIGHT_RUNS": str(tmp_path / "runs"), "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert "one of 2 processes that the training has started itself. Start all of them together: relight" in done.stderr
    assert not (tmp_path / "runs").exists()
