"""The list of runs, kept in memory: only runs that live, and those whose files have changed, are read again."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path

from relight.checkpoints.file_names import StoreLayout
from relight.errors import DamagedFile
from relight.overview.summary import DamagedRun, RunListing, RunSummary, summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout

_SETTLED_S = 2.0
"""A file that changed less than this ago may change again without another time of change."""


@dataclass(frozen=True)
class _Known:
    signature: Hashable
    summary: RunSummary


class KnownRuns:
    """The summaries of a folder's runs. Two threads at once only read more than they need."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, _Known] = {}

    def list(self) -> RunListing:
        """Return what `relight.overview.summary.list_runs` returns."""
        runs: list[RunSummary] = []
        damaged: list[DamagedRun] = []
        kept: dict[str, _Known] = {}
        for layout in list_layouts(self._folder):
            now_ns = time.time_ns()
            marks = tuple(_list_marks(layout))
            known = self._known.get(layout.run_id)
            if known is None or known.signature != marks:
                try:
                    known = _Known(marks, summarize_run(layout, traceback=False))
                except DamagedFile as error:
                    if layout.folder.is_dir():  # else it was removed this instant
                        damaged.append(DamagedRun(run=layout.run_id, path=str(layout.folder), reason=str(error)))
                    continue
            runs.append(known.summary)
            if _is_dead(known.summary) and all(mark[1] < now_ns - _SETTLED_S * 1e9 for mark in marks):
                kept[layout.run_id] = known
        self._known = kept
        runs.sort(key=lambda run: (-run.created_s, run.run))
        return RunListing(runs=runs, damaged=damaged)


def _is_dead(run: RunSummary) -> bool:
    """Return whether the run says the same until one of its files changes."""
    pids = run.pids
    return not run.status.is_live and pids.supervisor is None and pids.trainer is None and pids.writer is None


def _list_marks(layout: RunLayout) -> Iterator[tuple[str, int, int, int]]:
    """Yield path, time of change, size and inode of everything that a summary is made of."""
    attempt = layout.attempt(layout.latest_attempt())
    manifests = StoreLayout(layout.checkpoints).manifests
    for folder in (layout.folder, attempt.folder, layout.metrics):
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    yield entry.path, status.st_mtime_ns, status.st_size, status.st_ino
        except OSError:
            continue
    for folder in (layout.folder, layout.attempts, attempt.folder, manifests):
        try:
            status = os.stat(folder)  # noqa: PTH116  for each run of a list
        except OSError:
            continue
        yield str(folder), status.st_mtime_ns, status.st_size, status.st_ino
