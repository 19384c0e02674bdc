"""The dashboard's only reader of run folders; all browser sessions share what it read a moment ago."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from relight.checkpoints.listing import CheckpointListing, DamagedEntry
from relight.checkpoints.retention import RetentionPlan
from relight.checkpoints.store import CheckpointStore
from relight.drill.proof import JudgedProof, judge_run
from relight.errors import RelightError
from relight.metrics.metric_scan import scan_metrics
from relight.metrics.series import read_series
from relight.overview.attempts import AttemptSummary, summarize_attempts
from relight.overview.death import Death, explain_death
from relight.overview.exports import ExportFile, list_exports
from relight.overview.summary import RunListing, RunSummary, summarize_run
from relight.runs.catalog import find_run
from relight.runs.fingerprint import read_environment
from relight.runs.layout import RunLayout
from relight.runs.log import read_log_tail
from relight.runs.record_file import read_record
from relight.runs.records import Objective, RunRecord, StopRequest
from relight.runs.run_record import read_run_record
from relight.runs.stop_request import read_stop_request
from relight.supervision.interrupted_runs import InterruptedRun, find_interrupted_runs
from relight.tasks.reference import TaskDescription, describe_task, list_tasks, resolve_task
from relight.tasks.retention_options import plan_run_retention
from relight.tasks.spare_process import prepare_spare
from relight_app.charts import SPARK_POINTS, thin_out
from relight_app.jobs import Jobs
from relight_app.memo import Memo
from relight_app.run_listing import KnownRuns
from relight_app.settings import runs_folder

_LOG_BYTES = 64 << 10
_CURVE_AGE_S = 3.0


class Engine:
    """Reads one runs folder. Every expected error is a `RelightError`; anything else is a bug."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs = Jobs()
        self.memo = Memo()
        self._known_runs = KnownRuns(folder)
        self._stores: dict[str, CheckpointStore] = {}
        self._descriptions: dict[str, tuple[str | None, TaskDescription]] = {}

    def list_runs(self) -> RunListing:
        """List all runs; the result is at most a quarter of a second old."""
        return self.memo.recent("runs", self._known_runs.list, max_age_s=0.25)

    def find_interrupted(self) -> list[InterruptedRun]:
        """Find the runs that died without having been stopped; the result is at most two seconds old."""
        return self.memo.recent("interrupted", lambda: find_interrupted_runs(self.list_runs().runs), max_age_s=2.0)

    def find_layout(self, run: str) -> RunLayout:
        """Find a run by its exact id, or else by its name or the beginning of its id."""
        layout = RunLayout(self.folder / run)
        if run and Path(run).name == run and not run.startswith(".") and layout.is_run():
            return layout
        return find_run(self.folder, run)

    def read_run(self, run: str) -> RunSummary:
        """Summarize a run, with its whole traceback; the result is at most 0.2 s old."""
        layout = self.find_layout(run)
        return self.memo.recent(("run", run), lambda: summarize_run(layout), max_age_s=0.2)

    def explain_death(self, run: str) -> Death | None:
        """Explain why the run does not train; None while it is live and after it has finished."""
        layout = self.find_layout(run)
        return self.memo.recent(("death", run), lambda: explain_death(layout), max_age_s=1.0)

    def read_record(self, run: str) -> RunRecord:
        """Read the record of a run, completed with what its script reported."""
        return read_run_record(self.find_layout(run))

    def read_launch(self, run: str) -> RunRecord:
        """Read the record of a run as it was written at the launch."""
        return read_record(self.find_layout(run).record, RunRecord)

    def read_stop(self, run: RunSummary) -> StopRequest | None:
        """Return the request to stop the newest attempt; None without one."""
        return read_stop_request(self.find_layout(run.run), attempt=run.attempt)

    def list_checkpoints(self, run: str) -> CheckpointListing:
        """List the checkpoints, oldest first and with the best one labeled, and the damaged files of the store."""
        record, store = self.read_record(run), self.open_store(run)

        def read() -> CheckpointListing:
            try:
                return store.list(higher_is_better=record.higher_is_better)
            except OSError as error:
                path = Path(error.filename or store.layout.folder)
                return CheckpointListing([], [DamagedEntry(path, f"It cannot be read: {error.strerror or error}.")])

        return self.memo.recent(("checkpoints", run), read, max_age_s=0.3)

    def open_store(self, run: str) -> CheckpointStore:
        """Return the run's store. There is one object per run because it caches the manifests that it has read."""
        layout = self.find_layout(run)
        return self._stores.setdefault(layout.run_id, CheckpointStore(layout.checkpoints))

    def list_attempt_numbers(self, run: str) -> list[int]:
        """List the numbers of the run's attempts, oldest first."""
        return self.find_layout(run).list_attempts()

    def list_attempts(self, run: RunSummary) -> list[AttemptSummary]:
        """Summarize the run's attempts, oldest first."""
        return summarize_attempts(self.find_layout(run.run), status=run.status, reason=run.reason)

    def read_log(self, run: str, *, attempt: int, rank: int = 0) -> str:
        """Read the last 64 KiB of a rank's log of an attempt."""
        return read_log_tail(self.find_layout(run).of_rank(rank).attempt(attempt).log, max_bytes=_LOG_BYTES)

    def list_metrics(self, run: str) -> list[str]:
        """List the full names of all metrics that the run has logged."""
        folder = self.find_layout(run).metrics
        return self.memo.unchanged(("metrics", run), _names_signature(folder), lambda: scan_metrics(folder).names)

    def read_curve(self, run: RunSummary) -> tuple[str, Sequence[float]] | None:
        """Return the metric that represents the run in the list, and about fifty of its values; None without one."""
        name = _choose_curve(run)
        if name is None:
            return None
        folder = Path(run.path) / "metrics"

        def read() -> tuple[str, Sequence[float]]:
            return name, thin_out(read_series(folder, name).values, points=SPARK_POINTS)

        key = ("curve", run.run)
        if run.status.is_live:
            return self.memo.recent(key, read, max_age_s=_CURVE_AGE_S, lasting=True)
        return self.memo.unchanged(key, _sizes_signature(folder), read)

    def list_exports(self, run: str) -> list[ExportFile]:
        """List the finished exports, newest first."""
        return list_exports(self.find_layout(run).exports)

    def read_proof(self, run: RunSummary, record: RunRecord) -> JudgedProof | None:
        """Return the result of the newest drill of the run's task, and what has changed since; None without one."""
        layout = self.find_layout(run.run)
        return self.memo.recent(("proof", run.run, run.attempt), lambda: judge_run(layout, record), max_age_s=1.0)

    def plan_retention(self, run: str) -> RetentionPlan | None:
        """Return what the run's retention would keep and remove now; None when its settings cannot be read."""
        layout = self.find_layout(run)

        def read() -> RetentionPlan | None:
            try:
                return plan_run_retention(layout)
            except (RelightError, OSError):
                return None

        return self.memo.recent(("retention", layout.run_id), read, max_age_s=0.3)

    def list_branches(self, run: str) -> list[RunSummary]:
        """List the runs that branched from this one, oldest first."""
        found = [other for other in self.list_runs().runs if other.parent is not None and other.parent.run == run]
        return sorted(found, key=lambda other: (other.created_s, other.run))

    def read_environment(self, run: str, *, attempt: int) -> dict[str, Any] | None:
        """Return the versions, device and flags that an attempt's trainer recorded; None before it has."""
        path = self.find_layout(run).attempt(attempt).environment
        return self.memo.recent(("environment", run, attempt), lambda: read_environment(path), max_age_s=1.0)

    def read_device(self, run: RunSummary) -> str | None:
        """Return the device that the newest attempt trains on; None before its trainer has recorded it."""
        environment = self.read_environment(run.run, attempt=run.attempt) or {}
        parts = [part for key in ("device", "gpu") if isinstance(part := environment.get(key), str)]
        return ", ".join(parts) or None

    def default_config(self, record: RunRecord) -> dict[str, Any]:
        """Return the default config of a built-in task, and {} for a task in a file, to avoid importing the file."""
        if record.task.kind != "builtin":
            return {}
        for task in list_tasks():
            if task.name == record.task.name:
                return {field.name: field.default for field in task.fields}
        return {}

    def list_tasks(self) -> list[TaskDescription]:
        """List the built-in tasks."""
        return list_tasks()

    def describe_task(self, text: str) -> TaskDescription:
        """Describe the task that `text` names. A file is imported again only after it has changed."""
        reference = resolve_task(text)
        if reference.kind == "script":
            return TaskDescription(
                name=str(reference.path), title=reference.name, fields=(), objective=Objective(),
                summary="Your own training script. Its options are its own arguments.",
            )  # fmt: skip
        try:
            description = describe_task(reference)
        finally:
            prepare_spare()  # for the launch that follows, or the next press after the file is mended
        self._descriptions[text] = reference.code_digest, description
        return description

    def expect_description(self) -> None:
        """Start a process that can soon describe a file quickly. It runs nobody's code until `describe_task`."""
        prepare_spare()

    def find_description(self, text: str) -> TaskDescription | None:
        """Describe the task that `text` names without running its code: None until `describe_task` has imported it."""
        reference = resolve_task(text)
        if reference.kind != "file":
            return self.describe_task(text)
        digest, description = self._descriptions.get(text, (None, None))
        return description if digest == reference.code_digest else None


_engines: dict[Path, Engine] = {}
_engines_lock = threading.Lock()


def current_engine() -> Engine:
    """Return the engine of the runs folder that this dashboard shows; all sessions share it."""
    folder = runs_folder()
    with _engines_lock:
        return _engines.setdefault(folder, Engine(folder))


def _choose_curve(run: RunSummary) -> str | None:
    names = [name for name in run.metrics if not name.startswith("system/")]
    for wanted in ("train/loss", "validation/loss"):
        if wanted in names:
            return wanted
    return next((name for name in names if not name.endswith("/lr")), None)


def _names_signature(folder: Path) -> Hashable:
    try:
        return tuple(sorted(os.listdir(folder)))  # noqa: PTH208  fast: called in every rerun
    except OSError:
        return ()


def _sizes_signature(folder: Path) -> Hashable:
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted((entry.name, entry.stat().st_size) for entry in entries))
    except OSError:
        return ()
