"""What the tests of this folder do with trainings: start them from the command line, and look at them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from integration import soak
from relight.overview.summary import RunSummary, summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.status import RunStatus
from tests.patience import stretch


def kill_and_compare(
    runs: Path,
    *words: str,
    last: Sequence[str] = (),
    steps: int,
    find_victim: Callable[[RunSummary], int | None],
) -> str:
    """Run the same training twice, kill and resume one of them, and assert that they end alike; return the figures.

    `words` and `last` are what follows `relight run`; `find_victim` names the process to kill.
    """
    relight(runs, "run", *words, "--name", "twin", *last)
    relight(runs, "run", *words, "--name", "killed", "--detach", *last)
    alive: RunSummary = soak.wait_for(
        lambda: between_checkpoints(find(runs, "killed")), why="a step between checkpoints"
    )
    victim = find_victim(alive)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    soak.wait_for(lambda: find(runs, "killed").status is RunStatus.CRASHED, why="the run to be shown as crashed")
    dead = find(runs, "killed")
    assert dead.step < steps

    relight(runs, "resume", "killed")
    resumed = find(runs, "killed")
    assert (resumed.status, resumed.step, resumed.attempt) == (RunStatus.FINISHED, steps, 2)
    twin, killed = digest(runs, "twin"), digest(runs, "killed")
    assert killed == twin
    return (
        f"killed at step {dead.step} of {steps}, {dead.work_at_risk_steps} steps repeated, final digests {twin[:8]} "
        f"and {killed[:8]}"
    )


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
        timeout=stretch(120.0),
        check=False,
    )
    assert done.returncode == 0, f"relight {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def find(runs: Path, name: str) -> RunSummary:
    (found,) = (summary for layout in list_layouts(runs) if (summary := summarize_run(layout)).name == name)
    return found


def digest(runs: Path, name: str) -> str:
    """Return the digest of the state in which that run ended."""
    found: str = json.loads(relight(runs, "digest", name, "--json"))["digest"]
    return found
