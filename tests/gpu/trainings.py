"""What the tests of this folder do with trainings: start them from the command line, and look at them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from relight.overview.summary import RunSummary, summarize_run
from relight.runs.catalog import list_layouts
from tests.patience import stretch


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
