"""Short steps are witnessed several at a time, long ones at once, and a digest is the same either way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from relight.metrics.witness_file import Digests, read_witnesses
from relight.training.state.rng import RngRecorder
from relight.training.step_witness import StepWitness


def bear(path: Path, *, steps: int, apart_s: float, closes: bool = True) -> dict[int, Digests]:
    """Note steps that draw random numbers; return what the file holds then."""
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
            step, batch=-step, generators=recorder.capture(), optimizers=[optimizer], weights=bytes([step]),
            now=1000.0 + step * apart_s,
        )  # fmt: skip
    if closes:
        witness.close()
    return read_witnesses(path, after_step=0)


def test_the_digests_do_not_depend_on_how_many_are_written_at_once(tmp_path: Path) -> None:
    short, long = bear(tmp_path / "short", steps=40, apart_s=1e-5), bear(tmp_path / "long", steps=40, apart_s=1.0)
    assert short == long
    assert len(short) == 40
    for part in range(4):
        assert len({digests[part] for digests in short.values()}) == 40, "each step differs from the others"


@pytest.mark.parametrize(("apart_s", "kept"), [(1.0, 20), (1e-5, 17)])
def test_a_kill_costs_at_most_the_last_short_steps(tmp_path: Path, apart_s: float, kept: int) -> None:
    found = bear(tmp_path / "witness.bin", steps=20, apart_s=apart_s, closes=False)
    assert list(found) == list(range(1, kept + 1))


def test_the_digests_at_any_moment_are_those_of_the_last_step(tmp_path: Path) -> None:
    torch.manual_seed(3)
    recorder, witness = RngRecorder(), StepWitness(tmp_path / "witness.bin")
    for step in (1, 2):
        witness.note(step, batch=step, generators=recorder.capture(), optimizers=[], weights=b"", now=1000.0)
        latest = witness.take_latest()
        assert latest == witness.take_latest()
        assert (latest.batch, latest.rates, latest.weights) == (step, 0, 0)
    witness.close()
