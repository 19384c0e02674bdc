"""The dashboard's one reader of the engine: what it read a moment ago is shared by all browser sessions."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from relight.checkpoints.listing import CheckpointListing, with_best_label
from relight.checkpoints.retention import RetentionPlan
from relight.checkpoints.store import CheckpointStore
from relight.drill.proof import JudgedProof, judge_run
from relight.errors import RelightError
from relight.metrics.metric_file import read_names
from relight.metrics.series import read_series
from relight.overview.summary import RunListing, RunSummary, list_runs, summarize_run
from relight.runs.catalog import find_run
from relight.runs.fingerprint import read_environment
from relight.runs.layout import RunLayout
from relight.runs.log import read_log_tail
from relight.runs.record_file import read_record
from relight.runs.records import RunRecord, StopRequest
from relight.runs.run_record import read_run_record
from relight.runs.stop_request import read_stop_request
from relight.tasks.reference import TaskDescription, describe_task, list_tasks, resolve_task
from relight.tasks.retention_options import plan_run_retention
from relight_app.attempts import AttemptView, list_attempts
from relight_app.charts import SPARK_POINTS, thin_out
from relight_app.jobs import Jobs
from relight_app.memo import Memo
from relight_app.server.settings import runs_folder

LOG_BYTES = 64 << 10
_CURVE_AGE_S = 3.0


@dataclass(frozen=True)
class ExportFile:
    """One file in a run's `exports/`. `step` and `sha256` come from its card and are None without one."""

    name: str
    path: Path
    bytes: int
    time_s: float
    step: int | None = None
    sha256: str | None = None


class Engine:
    """Reads one runs folder. Everything it raises is a `RelightError`, or a bug."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs = Jobs()
        self.memo = Memo()
        self._stores: dict[str, CheckpointStore] = {}

    def list_runs(self) -> RunListing:
        """All runs, at most half a second old."""
        return self.memo.recent("runs", lambda: list_runs(self.folder), max_age_s=0.5)

    def find_layout(self, run: str) -> RunLayout:
        """The run of exactly that id; an address with a name or the beginning of an id finds it as well."""
        layout = RunLayout(self.folder / run)
        if run and Path(run).name == run and not run.startswith(".") and layout.record.exists():
            return layout
        return find_run(self.folder, run)

    def read_run(self, run: str) -> RunSummary:
        """The run with its whole traceback, at most a fifth of a second old."""
        layout = self.find_layout(run)
        return self.memo.recent(("run", run), lambda: summarize_run(layout), max_age_s=0.2)

    def read_record(self, run: str) -> RunRecord:
        """What was written when the run was created."""
        return read_run_record(self.find_layout(run))

    def read_launch(self, run: str) -> RunRecord:
        """The same, without what a script has said of itself since."""
        return read_record(self.find_layout(run).record, RunRecord)

    def read_stop(self, run: RunSummary) -> StopRequest | None:
        """The request to stop the newest attempt, while there is one."""
        return read_stop_request(self.find_layout(run.run), attempt=run.attempt)

    def list_checkpoints(self, run: str) -> CheckpointListing:
        """Checkpoints from the oldest to the newest, the best one labelled, and what of the store is damaged."""
        record = self.read_record(run)

        def read() -> CheckpointListing:
            listing = self.open_store(run).list()
            labelled = with_best_label(listing.checkpoints, higher_is_better=record.higher_is_better)
            return CheckpointListing(labelled, listing.damaged)

        return self.memo.recent(("checkpoints", run), read, max_age_s=0.3)

    def open_store(self, run: str) -> CheckpointStore:
        """The run's store; one object for each run, because it remembers the manifests that it has read."""
        layout = self.find_layout(run)
        return self._stores.setdefault(layout.run_id, CheckpointStore(layout.checkpoints))

    def list_attempts(self, run: RunSummary) -> list[AttemptView]:
        """The run's attempts, oldest first."""
        return list_attempts(self.find_layout(run.run), status=run.status, reason=run.reason)

    def read_log(self, run: str, *, attempt: int) -> str:
        """The end of an attempt's log."""
        return read_log_tail(self.find_layout(run).attempt(attempt).log, max_bytes=LOG_BYTES)

    def list_metrics(self, run: str) -> list[str]:
        """Full names of everything that the run has logged."""
        folder = self.find_layout(run).metrics
        return self.memo.unchanged(("metrics", run), _names_signature(folder), lambda: read_names(folder))

    def read_curve(self, run: RunSummary) -> tuple[str, Sequence[float]] | None:
        """The metric whose small curve the list shows, and some fifty of its values from the start to now."""
        name = _curve_name(run)
        if name is None:
            return None
        folder = Path(run.path) / "metrics"

        def read() -> tuple[str, Sequence[float]]:
            return name, thin_out(read_series(folder, name).values, points=SPARK_POINTS)

        key = ("curve", run.run)
        if run.status.is_live:
            return self.memo.recent(key, read, max_age_s=_CURVE_AGE_S)
        return self.memo.unchanged(key, _sizes_signature(folder), read)

    def list_exports(self, run: str) -> list[ExportFile]:
        """The files that were exported, newest first; one that is being written is not among them."""
        folder = self.find_layout(run).exports
        try:
            paths = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".pth") and path.is_file()]
        except OSError:
            return []
        found = [file for path in paths if (file := _read_export(path)) is not None]
        return sorted(found, key=lambda file: -file.time_s)

    def read_proof(self, run: RunSummary, record: RunRecord) -> JudgedProof | None:
        """The drill that was held with the run's task, and what has changed since; None without one."""
        layout = self.find_layout(run.run)
        return self.memo.recent(("proof", run.run, run.attempt), lambda: judge_run(layout, record), max_age_s=1.0)

    def plan_retention(self, run: str) -> RetentionPlan | None:
        """What the run's own retention would keep and remove now; None where that cannot be told."""
        layout = self.find_layout(run)

        def read() -> RetentionPlan | None:
            try:
                return plan_run_retention(layout)
            except RelightError:
                return None

        return self.memo.recent(("retention", layout.run_id), read, max_age_s=0.3)

    def list_branches(self, run: str) -> list[RunSummary]:
        """The runs that branched from this one, oldest first."""
        found = [other for other in self.list_runs().runs if other.parent is not None and other.parent.run == run]
        return sorted(found, key=lambda other: (other.created_s, other.run))

    def read_environment(self, run: str, *, attempt: int) -> dict[str, Any] | None:
        """Versions, device and flags of an attempt, as its trainer wrote them down; None before that."""
        path = self.find_layout(run).attempt(attempt).environment
        return self.memo.recent(("environment", run, attempt), lambda: read_environment(path), max_age_s=1.0)

    def read_device(self, run: RunSummary) -> str | None:
        """What the newest attempt trains on, as its trainer wrote it down; None before that."""
        environment = self.read_environment(run.run, attempt=run.attempt) or {}
        parts = [part for key in ("device", "gpu") if isinstance(part := environment.get(key), str)]
        return ", ".join(parts) or None

    def default_config(self, record: RunRecord) -> dict[str, Any]:
        """The defaults of a built-in task's config; nothing for a task in a file, which is not imported for this."""
        if record.task.kind != "builtin":
            return {}
        for task in list_tasks():
            if task.name == record.task.name:
                return {field.name: field.default for field in task.fields}
        return {}

    def list_tasks(self) -> list[TaskDescription]:
        """The tasks that ship with Relight."""
        return list_tasks()

    def describe_task(self, text: str) -> TaskDescription:
        """What the task that a person calls `text` is; a file is read anew only when it has changed."""
        reference = resolve_task(text)
        if reference.kind == "script":
            return TaskDescription(
                name=str(reference.path), title=reference.name, fields=(), best_metric="", higher_is_better=True,
                summary="A training script of your own: its options are its own arguments.",
            )  # fmt: skip
        return self.memo.unchanged(("task", text), reference.code_digest, lambda: describe_task(reference))


_engines: dict[Path, Engine] = {}
_engines_lock = threading.Lock()


def current_engine() -> Engine:
    """The engine of the folder that this dashboard shows; the same object for every session."""
    folder = runs_folder()
    with _engines_lock:
        return _engines.setdefault(folder, Engine(folder))


def _curve_name(run: RunSummary) -> str | None:
    names = [name for name in run.metrics if not name.startswith("system/")]
    for wanted in ("train/loss", "validation/loss"):
        if wanted in names:
            return wanted
    return next((name for name in names if not name.endswith("/lr")), None)


def _names_signature(folder: Path) -> Hashable:
    try:
        return tuple(sorted(os.listdir(folder)))  # noqa: PTH208  asked for with every rerun
    except OSError:
        return ()


def _sizes_signature(folder: Path) -> Hashable:
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted((entry.name, entry.stat().st_size) for entry in entries))
    except OSError:
        return ()


def _read_export(path: Path) -> ExportFile | None:
    try:
        status = path.stat()
    except OSError:
        return None
    card: dict[str, Any] = {}
    try:
        decoded = msgspec.json.decode(Path(f"{path}.json").read_bytes())
        card = decoded if isinstance(decoded, dict) else {}
    except (OSError, msgspec.DecodeError):
        pass
    step, sha256 = card.get("step"), card.get("sha256")
    return ExportFile(
        name=path.name,
        path=path,
        bytes=status.st_size,
        time_s=status.st_mtime,
        step=step if isinstance(step, int) else None,
        sha256=sha256 if isinstance(sha256, str) else None,
    )
