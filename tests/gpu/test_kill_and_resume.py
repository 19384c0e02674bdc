"""A run on the card that is killed with SIGKILL and resumed from the command line ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpu.trainings import between_checkpoints, digest, find, relight
from integration import soak
from relight.overview.summary import RunSummary
from relight.runs.status import RunStatus

pytestmark = [pytest.mark.gpu, pytest.mark.processes]

REHEARSED = {"context": 16, "batch_size": 4, "validation_samples": 8, "threads": 1}
"""A training that a CPU does in seconds."""


def test_a_killed_stdlib_gpt_ends_with_the_digest_of_an_uninterrupted_twin(
    runs: Path, device: torch.device, record_property: Callable[[str, object], None]
) -> None:
    steps = 120 if device.type == "cpu" else 2000
    options = {"device": device.type, "max_steps": steps, "checkpoint_every_s": 0, "checkpoint_every_steps": 50}
    options |= REHEARSED if device.type == "cpu" else {}
    settings = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]

    relight(runs, "run", "stdlib-gpt", "--name", "twin", *settings)
    relight(runs, "run", "stdlib-gpt", "--name", "killed", "--detach", *settings)
    alive: RunSummary = soak.wait_for(
        lambda: between_checkpoints(find(runs, "killed")), why="a step between checkpoints"
    )
    assert alive.pids.trainer is not None
    os.kill(alive.pids.trainer, signal.SIGKILL)
    soak.wait_for(lambda: find(runs, "killed").status is RunStatus.CRASHED, why="the run to be shown as crashed")
    dead = find(runs, "killed")
    assert dead.step < steps

    relight(runs, "resume", "killed")
    resumed = find(runs, "killed")
    assert (resumed.status, resumed.step, resumed.attempt) == (RunStatus.FINISHED, steps, 2)
    twin, killed = digest(runs, "twin"), digest(runs, "killed")
    record_property(
        "figures",
        f"killed at step {dead.step} of {steps}, {dead.work_at_risk_steps} steps repeated, "
        f"final digests {twin[:8]} and {killed[:8]}",
    )
    assert killed == twin
