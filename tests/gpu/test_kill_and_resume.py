"""A run on the card that is killed with SIGKILL and resumed from the command line ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from integration import soak
from relight.overview.summary import RunSummary, summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.status import RunStatus

pytestmark = [pytest.mark.gpu, pytest.mark.processes]

REHEARSED = {"context": 16, "batch_size": 4, "validation_samples": 8, "threads": 1}
"""A training that a CPU does in seconds."""


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """A runs folder. Nothing that trains in it outlives the test."""
    folder = tmp_path / "runs"
    folder.mkdir()
    yield folder
    soak.end_everything(folder)


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
    twin, killed = (json.loads(relight(runs, "digest", name, "--json"))["digest"] for name in ("twin", "killed"))
    record_property(
        "figures",
        f"killed at step {dead.step} of {steps}, {dead.work_at_risk_steps} steps repeated, "
        f"final digests {twin[:8]} and {killed[:8]}",
    )
    assert killed == twin


def between_checkpoints(summary: RunSummary) -> RunSummary | None:
    """Return the summary if a kill now costs some steps that a resume has to repeat."""
    assert summary.status.is_live, f"{summary.reason}\n{summary.traceback}"
    return summary if summary.durable_step and summary.step >= summary.durable_step + 10 else None


def relight(runs: Path, *arguments: str) -> str:
    """Run the command line to its end, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "relight.cli", *arguments],
        env={**os.environ, "RELIGHT_RUNS": str(runs)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"relight {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def find(runs: Path, name: str) -> RunSummary:
    (found,) = (summary for layout in list_layouts(runs) if (summary := summarize_run(layout)).name == name)
    return found
