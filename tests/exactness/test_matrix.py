"""Killed anywhere, with any optimizer, model and way of loading, a training ends as if nothing had happened.

Here is the subset that holds every pair of those; `make soak` runs all 735 cells.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from exactness.cells import MOMENTS, OPTIMIZERS, SCHEDULES, all_cells, pairwise_cells

MATRIX = Path(__file__).with_name("matrix.py")
PARTS = 2
HAS_MUON = hasattr(torch.optim, "Muon")


@pytest.mark.processes
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_a_killed_and_resumed_training_has_the_digest_of_its_uninterrupted_twin(part: int) -> None:
    command = [sys.executable, str(MATRIX), "--pairwise", "--part", f"{part}/{PARTS}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = len([cell for cell in pairwise_cells()[part - 1 :: PARTS] if cell.optimizer != "muon" or HAS_MUON])
    assert f"{expected} of {expected} cells exact, 0 wrong" in done.stdout


def test_the_subset_holds_every_pair_and_every_schedule() -> None:
    subset = [(cell.optimizer, cell.model, cell.workers, cell.moment) for cell in pairwise_cells()]
    whole = [(cell.optimizer, cell.model, cell.workers, cell.moment) for cell in all_cells()]
    for first, second in itertools.combinations(range(4), 2):
        pairs = {(values[first], values[second]) for values in whole}
        assert {(values[first], values[second]) for values in subset} == pairs
    assert {cell.schedule for cell in pairwise_cells()} == set(SCHEDULES)
    assert len(subset) < len(whole) / len(MOMENTS) / 2 < len(OPTIMIZERS) ** 3
