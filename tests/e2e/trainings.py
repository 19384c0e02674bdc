"""Provides trainings for browser tests that start quickly, use little CPU, and never end on their own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from relight.overview.summary import RunSummary, summarize_run
from relight.runs.layout import RunLayout
from relight.runs.records import PreparedTask
from relight.supervision.launch import launch_run
from relight.tasks.reference import resolve_task, validate_config
from tests.e2e.conftest import wait_until

TINY_TASK = f"{Path(__file__).parents[1] / 'integration' / 'tiny_task.py'}:Tiny"
"""A task whose steps sleep, so that it stays live without using a whole core."""
ENDLESS = {
    "epochs": 100_000,
    "samples": 320,
    "batch_size": 8,
    "nap_s": 0.02,
    "threads": 1,
    "device": "cpu",
    "checkpoint_every_s": 0,
    "checkpoint_every_steps": 25,
}
START_S = 120.0


def launch_endless(runs: Path, **changes: Any) -> RunLayout:
    """Start a training that runs until the test ends it."""
    prepared = _prepare()
    changed = msgspec.structs.replace(prepared, config={**prepared.config, **changes})
    return launch_run(runs, changed, name="endless").layout


@cache
def _prepare() -> PreparedTask:
    """Prepare the task, once for all tests."""
    return validate_config(resolve_task(TINY_TASK), ENDLESS)


def wait_for_step(layout: RunLayout, step: int, *, attempt: int = 1) -> RunSummary:
    """Wait until the attempt is training and has reached `step`."""

    def reached() -> RunSummary | None:
        run = summarize_run(layout)
        assert run.status.is_live, f"{run.status}: {run.reason} {run.traceback}"
        return run if run.attempt == attempt and run.pids.trainer and run.step >= step else None

    found: RunSummary = wait_until(reached, timeout_s=START_S, what=f"attempt {attempt} trained until step {step}")
    return found


def wait_for_status(layout: RunLayout, status: str) -> RunSummary:
    """Wait until the run has the given status."""

    def has_it() -> RunSummary | None:
        run = summarize_run(layout)
        return run if run.status == status else None

    found: RunSummary = wait_until(has_it, timeout_s=START_S, what=f"{layout.run_id} is {status}")
    return found


def count_attempts(layout: RunLayout) -> int:
    """Return the number of attempts that the run has begun."""
    return len([entry for entry in layout.attempts.iterdir() if entry.name.isdigit()])


def settings(config: Mapping[str, Any]) -> list[str]:
    """Return the config as arguments for `relight run`."""
    return [word for key, value in config.items() for word in ("--set", f"{key}={value}")]
