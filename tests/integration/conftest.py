"""Real trainings under real supervisors. Every process they start ends with its test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from integration import soak
from relight.overview.summary import RunSummary, summarize_run
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import AttemptExit
from relight.runs.status import RunStatus
from relight.supervision.launch import launch_run
from relight.tasks.reference import resolve_task, validate_config

QUICK: dict[str, Any] = {
    "epochs": 4,
    "samples": 160,
    "batch_size": 8,
    "threads": 1,
    "device": "cpu",
    "checkpoint_every_s": 0.3,
}
ENDLESS = {**QUICK, "epochs": 100_000}


class Workshop:
    """A runs folder for trainings of real tasks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def launch(
        self, config: Mapping[str, Any], *, task: str = soak.TASK, working_folder: Path | None = None, **more: Any
    ) -> RunLayout:
        prepared = validate_config(resolve_task(task, working_folder=working_folder), config)
        return launch_run(self.folder, prepared, **more).layout

    def wait_for_step(self, layout: RunLayout, step: int) -> RunSummary:
        def reached() -> RunSummary | None:
            summary = summarize_run(layout)
            assert summary.status.is_live, f"{summary.reason}\n{summary.traceback}\n{self.log(layout)}"
            return summary if summary.pids.trainer and summary.step >= step else None

        found: RunSummary = soak.wait_for(reached, why=f"step {step}: {self.log(layout)}")
        return found

    def wait_for_end(self, layout: RunLayout) -> AttemptExit:
        """Wait for the end of the newest attempt and return its exit record."""
        attempt = layout.attempt(layout.latest_attempt())
        soak.wait_for(attempt.exit.exists, why=f"the end: {self.log(layout)}")
        return read_record(attempt.exit, AttemptExit)

    def finish(self, layout: RunLayout) -> RunSummary:
        """Wait until the run has ended, and assert that it finished."""
        self.wait_for_end(layout)
        summary = summarize_run(layout)
        assert summary.status is RunStatus.FINISHED, f"{summary.reason}\n{summary.traceback}\n{self.log(layout)}"
        return summary

    def log(self, layout: RunLayout) -> str:
        log = layout.attempt(layout.latest_attempt()).log
        if not log.is_file():  # missing, or a device that could be read forever
            return ""
        return log.read_text(errors="replace")[-3000:]

    def relight(self, *arguments: str, timeout_s: float = 120.0, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "relight.cli", *arguments],
            env={**os.environ, "RELIGHT_RUNS": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            **more,
        )


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path / "a 0'; echo x ünï")
    yield made
    soak.end_everything(made.folder)
