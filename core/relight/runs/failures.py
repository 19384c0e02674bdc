"""How often attempts die on this machine without a word: what the pace of checkpoints is based on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from relight.errors import DamagedFile
from relight.runs.catalog import list_layouts
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.process_identity import host_name, is_alive
from relight.runs.progress import read_progress
from relight.runs.record_file import read_record_or_none
from relight.runs.records import AttemptExit, AttemptProcesses

PRIOR_S = 86_400.0
"""One failure a day, until the machine is known better. If that is wrong by a factor of four, the best interval is
wrong by two, and costs a quarter more time than it had to."""
_RECENT_S = 30 * 86_400.0
_RUNS = 100
_ATTEMPTS = 20


@dataclass(frozen=True)
class FailureHistory:
    """Seconds of training in recent attempts, and how many of these attempts were killed or vanished."""

    trained_s: float = 0.0
    failures: int = 0

    def estimate_interval(self, more_s: float = 0.0) -> float:
        """Return the expected seconds of training per failure, after `more_s` further ones without any.

        Counts one failure in `PRIOR_S` as if it had been seen here.
        """
        return (PRIOR_S + self.trained_s + more_s) / (1 + self.failures)


def read_failures(runs: Path, *, now_s: float) -> FailureHistory:
    """Count over the attempts of the last 30 days that this machine ran for the newest 100 runs in `runs`.

    An attempt that an exception ended does not count: it saved its last step edge. Neither does one that was stopped.
    """
    trained_s, failures = 0.0, 0
    for layout in _list_recent(runs, now_s=now_s):
        for attempt in layout:
            progress = read_progress(attempt.progress)
            if progress is None or progress.started_s <= 0 or now_s - progress.time_s > _RECENT_S:
                continue
            processes = read_record_or_none(attempt.processes, AttemptProcesses)
            if processes is None or processes.supervisor.host not in ("", host_name()):
                continue
            trained_s += max(0.0, progress.time_s - progress.started_s)
            failures += _has_failed(attempt, processes)
    return FailureHistory(trained_s, failures)


def _list_recent(runs: Path, *, now_s: float) -> list[list[AttemptLayout]]:
    """Return the newest attempts of the newest runs; a run's `attempts` folder changes when one begins."""
    dated = []
    for layout in list_layouts(runs):
        try:
            changed_s = os.stat(layout.attempts).st_mtime  # noqa: PTH116
        except OSError:
            continue
        dated.append((changed_s, layout.run_id, layout))
    recent = [layout for changed_s, _, layout in sorted(dated, reverse=True)[:_RUNS]]
    return [[layout.attempt(number) for number in _list_attempts(layout)[-_ATTEMPTS:]] for layout in recent]


def _list_attempts(layout: RunLayout) -> list[int]:
    try:
        return layout.list_attempts()
    except DamagedFile:
        return []


def _has_failed(attempt: AttemptLayout, processes: AttemptProcesses) -> bool:
    exit = read_record_or_none(attempt.exit, AttemptExit)
    if exit is not None:
        return exit.outcome == "crashed" and exit.traceback is None
    return not (is_alive(processes.supervisor) or is_alive(processes.trainer))
