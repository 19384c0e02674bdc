"""Makes run folders with the engine's own writers, and runs the command line in this process or in a separate one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from relight.checkpoints.snapshot_header import SnapshotHeader, TensorRef, TensorSpec
from relight.checkpoints.store import CheckpointStore
from relight.cli.application import app
from relight.metrics.writer import MetricWriter
from relight.runs.catalog import create_run
from relight.runs.layout import RunLayout
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
    SavingState,
    TaskReference,
)

RELIGHT = Path(sys.executable).parent / "relight"


@dataclass
class Answer:
    """What a command printed and how it ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Return the decoded JSON on stdout."""
        return msgspec.json.decode(self.stdout)

    @property
    def error(self) -> str:
        """Return the one line on stderr."""
        (line,) = self.stderr.splitlines()
        assert line.startswith("relight: ")
        return line


Ask = Callable[..., Answer]


@dataclass
class RunMaker:
    """Makes runs in a runs folder, in the state in which the engine would leave them."""

    folder: Path
    made: list[RunLayout] = field(default_factory=list)

    def __call__(self, name: str = "digits", *, outcome: Outcome | None = "finished", **changes: Any) -> RunLayout:
        """Make a run of 20 steps with checkpoints at 10 and 20. Without `outcome`, this process acts as its trainer."""
        task = TaskReference(kind="builtin", name="digits")
        layout = create_run(
            self.folder,
            PreparedTask(task, {"epochs": 2, "lr": 0.003}, Objective("validation/accuracy")),
            name=name,
        ).layout
        attempt = layout.attempt(1)
        now_s = time.time()
        attempt.folder.mkdir()
        write_record(attempt.start, AttemptStart(attempt=1, time_s=now_s - 60, reason="launch"))
        me = current_process()
        write_record(attempt.processes, AttemptProcesses(supervisor=me, trainer=me))
        step = changes.get("step", 20)
        self.log_metrics(layout, attempt=1, steps=range(1, step + 1))
        for at, score in ((10, 0.9), (20, 0.95)):
            if at <= step:
                self.commit(layout, step=at, score=score)
        progress = Progress(
            step=step, steps_total=40 if outcome is None else 20, epoch=1, epochs=2, batch=step - 10, batches=10,
            time_s=now_s, started_s=now_s - 10, steps_per_s=2.0, phase="training", best_step=20, best_value=0.95,
        )  # fmt: skip
        file = ProgressFile(attempt.progress)
        file.write(progress)
        file.close()
        durable = step // 10 * 10
        write_record(
            attempt.saving, SavingState(time_s=now_s, durable_step=durable, durable_time_s=now_s - (step - durable) / 2)
        )
        attempt.log.write_text("".join(f"line {n}\n" for n in range(1, 31)))
        if outcome is not None:
            write_record(
                attempt.exit,
                AttemptExit(
                    attempt=1,
                    time_s=now_s,
                    outcome=outcome,
                    exit_code={"finished": 0, "stopped": 130, "crashed": 3}[outcome],
                    step=step,
                    reason=changes.get("reason", ""),
                    error=changes.get("error"),
                    traceback=changes.get("traceback"),
                ),
            )
        self.made.append(layout)
        return layout

    def log_metrics(self, layout: RunLayout, *, attempt: int, steps: range) -> None:
        """Log a loss at every step and an accuracy at every tenth."""
        train = MetricWriter(layout.metrics, stream="train", attempt=attempt)
        validation = MetricWriter(layout.metrics, stream="validation", attempt=attempt)
        for step in steps:
            train.log(step, {"loss": 1 / step + attempt, "lr": 0.003})
            if step % 10 == 0:
                validation.log(step, {"accuracy": 0.85 + step / 200})
        train.close()
        validation.close()

    def commit(self, layout: RunLayout, *, step: int, score: float | None = None, value: int = 7) -> None:
        """Commit a checkpoint with one small weight, a generator and a data position."""
        weight, generator = bytes([value]) * 16, bytes([step]) * 8
        header = SnapshotHeader(
            step=step,
            epoch=step // 10,
            reason="periodic",
            time_s=time.time(),
            tensors=[
                TensorSpec("model.weight", "F32", (2, 2), len(weight)),
                TensorSpec("rng.torch", "U8", (8,), len(generator)),
            ],
            state={"model": {"weight": TensorRef("model.weight")}, "data": {"batch": step % 10}},
            metrics={"validation/accuracy": score} if score is not None else {},
            score=score,
        )
        CheckpointStore(layout.checkpoints).commit(header, [memoryview(weight), memoryview(generator)])


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty runs folder for RELIGHT_RUNS, with a path that is difficult to quote."""
    folder = tmp_path / "runs of 'mine'; $x"
    monkeypatch.setenv("RELIGHT_RUNS", str(folder))
    return folder


@pytest.fixture
def make_run(runs: Path) -> RunMaker:
    """Return a maker of runs in the runs folder."""
    return RunMaker(runs)


@pytest.fixture
def ask(runs: Path) -> Ask:
    """Return a function that runs a command in this process."""

    def ask(*arguments: str) -> Answer:
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    return ask


@pytest.fixture
def relight(runs: Path) -> Ask:
    """Return a function that runs the installed command as a process and waits for it."""

    def relight(*arguments: str, timeout_s: float = 120.0, **environment: str) -> Answer:
        result = subprocess.run(
            [str(RELIGHT), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, **environment},
            check=False,
        )
        return Answer(result.returncode, result.stdout, result.stderr)

    return relight


@pytest.fixture
def end_runs(runs: Path) -> Iterator[None]:
    """Stop everything that is still training in the runs folder after the test."""
    yield
    from relight.errors import RelightError
    from relight.overview.summary import summarize_run
    from relight.runs.catalog import list_layouts
    from relight.supervision.stop import stop_run

    for layout in list_layouts(runs):
        if summarize_run(layout).pids.supervisor == os.getpid():
            continue  # a run that `make_run` only pretends to train
        try:
            stop_run(layout, now=True, wait_s=20)
        except RelightError:
            continue
