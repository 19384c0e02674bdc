"""Builds run folders the way the engine's processes do, record by record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from relight.metrics.writer import MetricWriter
from relight.runs.catalog import create_run
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.process_identity import current_process
from relight.runs.progress import Progress, ProgressFile
from relight.runs.record_file import write_record
from relight.runs.records import (
    AttemptExit,
    AttemptProcesses,
    AttemptStart,
    Objective,
    Outcome,
    PreparedTask,
    ProcessIdentity,
    SavingState,
    TaskReference,
    TrainerOutcome,
)

DIGITS = TaskReference(kind="builtin", name="digits")


def dead_process() -> ProcessIdentity:
    """Our own pid, but started in another age: what a reused pid looks like."""
    return msgspec.structs.replace(current_process(), start_ticks=1.0)


@dataclass
class RunBuilder:
    """One run; `attempt` is the newest one's number."""

    layout: RunLayout
    attempt: int = 0

    @classmethod
    def create(cls, folder: Path, **fields: Any) -> RunBuilder:
        """A run without attempts."""
        prepared = PreparedTask(DIGITS, {"lr": 0.1}, Objective("validation/accuracy"))
        return cls(create_run(folder, prepared, **fields).layout)

    @property
    def files(self) -> AttemptLayout:
        """The newest attempt's files."""
        return self.layout.attempt(self.attempt)

    def start(self, *, from_step: int = 0, age_s: float = 60.0, **fields: Any) -> RunBuilder:
        """Begin the next attempt."""
        self.attempt += 1
        self.files.folder.mkdir(exist_ok=True)
        reason = fields.pop("reason", "launch" if self.attempt == 1 else "resume")
        write_record(
            self.files.start,
            AttemptStart(
                attempt=self.attempt, time_s=time.time() - age_s, reason=reason, from_step=from_step, **fields
            ),
        )
        return self

    def processes(self, supervisor: ProcessIdentity, trainer: ProcessIdentity | None = None) -> RunBuilder:
        """Record who runs it."""
        write_record(self.files.processes, AttemptProcesses(supervisor=supervisor, trainer=trainer))
        return self

    def progress(self, step: int, **fields: Any) -> RunBuilder:
        """Record a step edge, now."""
        given: dict[str, Any] = {
            "steps_total": 1000,
            "time_s": time.time(),
            "started_s": time.time() - 50,
            "phase": "training",
        }
        file = ProgressFile(self.files.progress)
        file.write(Progress(step=step, **(given | fields)))
        file.close()
        return self

    def checkpoint(self, sequence: int, step: int) -> RunBuilder:
        """What a listing sees of a committed checkpoint: the manifest's name."""
        manifests = self.layout.checkpoints / "manifests"
        manifests.mkdir(parents=True, exist_ok=True)
        (manifests / f"{sequence:08d}-s{step}-0123abcd.json").write_text("{}")
        return self

    def saving(self, **fields: Any) -> RunBuilder:
        """Record how saving goes."""
        write_record(self.files.saving, SavingState(**({"time_s": time.time()} | fields)))
        return self

    def outcome(self, outcome: Outcome, **fields: Any) -> RunBuilder:
        """What the trainer says last."""
        write_record(self.files.outcome, TrainerOutcome(outcome=outcome, **({"step": 0} | fields)))
        return self

    def exit(self, outcome: Outcome, **fields: Any) -> RunBuilder:
        """The exit record."""
        write_record(
            self.files.exit,
            AttemptExit(attempt=self.attempt, outcome=outcome, **({"time_s": time.time(), "step": 0} | fields)),
        )
        return self

    def log(self, stream: str, rows: dict[int, dict[str, float]]) -> RunBuilder:
        """Log metrics in the newest attempt."""
        writer = MetricWriter(self.layout.metrics, stream=stream, attempt=self.attempt)
        for step, values in rows.items():
            writer.log(step, values)
        writer.close()
        return self

    def finished(self, step: int = 100) -> RunBuilder:
        """A whole, finished attempt."""
        self.start().processes(dead_process(), dead_process())
        self.progress(step, steps_total=step, phase="finished", best_step=step // 2, best_value=0.9)
        self.checkpoint(1, step).saving(durable_step=step, durable_time_s=time.time())
        self.log("train", {step: {"loss": 0.5, "lr": 0.1}})
        return self.exit("finished", step=step, exit_code=0)
