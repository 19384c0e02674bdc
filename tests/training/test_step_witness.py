"""Every step leaves its digests, and they do not depend on how many of them are written at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from relight.metrics.witness_file import Digests, read_witnesses
from relight.training.state.rng import RngRecorder
from relight.training.step_witness import StepWitness


def bear(path: Path, *, steps: int, together: int) -> dict[int, Digests]:
    """Note steps that draw random numbers, and write every `together` of them; return what the file holds then."""
    np.random.seed(3)
    torch.manual_seed(3)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    recorder, witness = RngRecorder(), StepWitness(path)
    for step in range(1, steps + 1):
        torch.rand(1)
        if step % 3 == 0:
            np.random.rand()
        optimizer.param_groups[0]["lr"] = 0.1 / step
        witness.note(
            step, batch=-step, generators=recorder.capture(), optimizers=[optimizer], weights=bytes([step])
        )  # fmt: skip
        if step % together == 0:
            witness.flush()
    witness.close()
    return read_witnesses(path, after_step=0)


def test_the_digests_do_not_depend_on_how_many_are_written_at_once(tmp_path: Path) -> None:
    one, many = bear(tmp_path / "one", steps=40, together=1), bear(tmp_path / "many", steps=40, together=20)
    assert one == many
    assert len(one) == 40
    for part in range(4):
        assert len({digests[part] for digests in one.values()}) == 40, "each step differs from the others"


def test_a_flush_gives_each_step_once(tmp_path: Path) -> None:
    torch.manual_seed(3)
    recorder, witness = RngRecorder(), StepWitness(tmp_path / "witness.bin")
    for step in (1, 2):
        witness.note(step, batch=step, generators=recorder.capture(), optimizers=[], weights=b"")
    first, second = witness.flush()
    assert (first[0], first[1], first[3], first[4]) == (1, 1, 0, 0)
    assert first[2] == second[2] != 0, "no generator has moved"
    assert witness.flush() == []
    witness.close()


def test_a_gaussian_that_torch_has_kept_is_part_of_the_digest(tmp_path: Path) -> None:
    torch.manual_seed(3)
    recorder, witness = RngRecorder(), StepWitness(tmp_path / "witness.bin")
    for step in range(1, 5):
        witness.note(step, batch=0, generators=recorder.capture(), optimizers=[], weights=b"")
        torch.randn(())  # draws two and keeps one, or takes the kept one
    assert len({digests[2] for digests in witness.flush()}) == 4
    witness.close()
