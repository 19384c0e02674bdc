"""Creates, starts, kills, resumes and compares runs that real processes train, without a supervisor."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relight.checkpoints.recovery import find_newest_good
from relight.checkpoints.store import CheckpointStore
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.progress import Progress, read_progress
from relight.runs.record_file import read_record, write_record
from relight.runs.records import AttemptStart, ResumeCheck, RunRecord, TaskReference, TrainerOutcome
from tests.compiler import with_compiler

SPIRAL = '''
import os
import random
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from relight import Data, Task, TaskConfig, option


class Jittered(Dataset):
    """Draws from all three global generators, as people's data sets do."""

    def __init__(self, points, labels):
        self.points, self.labels = points, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        noise = 0.01 * random.gauss(0, 1) + 0.01 * float(np.random.randn()) + 0.01 * torch.randn(())
        return self.points[index] + noise, self.labels[index]


class Drawn(Jittered):
    """Draws from the generator of each sample."""

    def sample(self, index, generator):
        return self.points[index] + 0.01 * torch.randn((), generator=generator), self.labels[index]


class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.first = nn.Linear(2, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(hidden, 3)
        self.register_buffer("hidden_count", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x):
        if self.training:
            self.hidden_count += 1
        noise = 0.001 * random.random() + 0.001 * np.random.rand()
        return self.last(self.drop(F.relu(self.norm(self.first(x))))) + noise + 1e-6 * self.hidden_count


class Spiral(Task):
    class Config(TaskConfig):
        epochs: int = option(3, "Passes.", group="Optimization", ge=1)
        batch_size: int = option(8, "Batch.", group="Optimization", ge=1)
        data: str = option("jittered", "Kind of data set.")
        samples: int = option(60, "Samples.", ge=1)
        step_s: float = option(0.0, "Pause in each step.", ge=0)
        validation_s: float = option(0.0, "Pause in each validation batch.", ge=0)
        fail_at: int = option(0, "Step in whose middle an exception is raised.", ge=0)
        fail_in_update: int = option(0, "Step in whose optimizer step an exception is raised.", ge=0)
        slow_step: int = option(0, "Step that takes slow_s.", ge=0)
        slow_s: float = option(0.0, "How long that step takes.", ge=0)
        build_s: float = option(0.0, "How long the model takes to build.", ge=0)
        hidden: int = option(16, "Width.", ge=1)

    best_metric = "accuracy"

    def build_model(self):
        self.count = 0
        if self.config.build_s:
            print("building")
            time.sleep(self.config.build_s)
        return Net(self.config.hidden)

    def build_optimizer(self, model):
        optimizer = super().build_optimizer(model)

        def fail(*_):
            if self.count == self.config.fail_in_update:
                raise ValueError("the update broke")

        optimizer.register_step_post_hook(fail)
        return optimizer

    def build_data(self):
        n = self.config.samples
        generator = torch.Generator().manual_seed(1)
        points = torch.randn(n, 2, generator=generator)
        labels = (points[:, 0] > 0).long() + (points[:, 1] > 0).long()
        kinds = {"jittered": Jittered, "drawn": Drawn, "tensors": TensorDataset}
        return Data(train=kinds[self.config.data](points, labels), validation=Jittered(points[:20], labels[:20]))

    def step(self, model, batch):
        x, y = batch
        time.sleep(self.config.step_s if model.training else self.config.validation_s)
        logits = model(x)
        if model.training:
            self.count += 1
            if self.count == self.config.fail_at:
                raise ValueError("the spiral broke")
            if self.count == self.config.slow_step:
                time.sleep(self.config.slow_s)
        return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.detach().argmax(1) == y).float().mean()}
'''


class Trainer:
    """A trainer that the nursery has started. It is the nursery's child, so its exit code comes through a file."""

    def __init__(self, pid: int, exit_code: Path) -> None:
        self.pid = pid
        self._exit_code = exit_code

    def poll(self) -> int | None:
        try:
            return int(self._exit_code.read_text())
        except FileNotFoundError:
            return None

    def wait(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, f"the trainer did not end in {timeout_s} s"
            time.sleep(0.005)
        return code


class Nursery:
    """Starts trainers in a fraction of a second; see nursery.py."""

    def __init__(self) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RELIGHT_")}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**clean, "OMP_WAIT_POLICY": "PASSIVE"},
        )  # fmt: skip

    def start(
        self, run: Path, attempt: int, *, log: Path, lifeline: Path | None = None, script: list[str] | None = None
    ) -> Trainer:
        assert self._process.stdin is not None and self._process.stdout is not None
        exit_code = log.with_name("exit_code")
        request = {
            "run": str(run), "attempt": attempt, "log": str(log), "exit_code": str(exit_code), "folder": str(run),
            "environment": {}, "lifeline": None if lifeline is None else str(lifeline), "script": script,
        }  # fmt: skip
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return Trainer(int(self._process.stdout.readline()), exit_code)

    def close(self) -> None:
        assert self._process.stdin is not None
        # Closing the pipe is not enough: a process that was forked in the meantime may hold it open.
        self._process.stdin.write(b"quit\n")
        self._process.stdin.close()
        self._process.wait(30)


class TrainedRun:
    """One run in its own folder."""

    def __init__(self, folder: Path, task: TaskReference, config: dict[str, Any], nursery: Nursery) -> None:
        self.nursery = nursery
        self.layout = RunLayout(folder)
        self.store = CheckpointStore(self.layout.checkpoints)
        self.processes: list[Trainer] = []
        self.script = [str(task.path), *task.arguments] if task.kind == "script" else None
        folder.mkdir(parents=True)
        write_record(
            self.layout.record,
            RunRecord(
                run=folder.name, name=folder.name, created_s=0.0, task=task, config=config,
                best_metric=None if task.kind == "script" else "validation/accuracy", higher_is_better=True,
            ),
        )  # fmt: skip

    @property
    def attempt(self) -> int:
        return self.layout.latest_attempt()

    def start(self, *, reason: str = "launch", lifeline: Path | None = None, **start: Any) -> Trainer:
        """Start the next attempt. A resume continues from the newest good checkpoint."""
        number = self.attempt + 1
        if reason == "resume" and "from_sequence" not in start:
            with RunLock.acquire(self.layout, timeout_s=30):
                good, _ = find_newest_good(self.store)
            if good is not None:
                start = {"from_sequence": good.sequence, "from_step": good.step, **start}
        layout = self.layout.attempt(number)
        layout.folder.mkdir(parents=True)
        write_record(layout.start, AttemptStart(attempt=number, time_s=time.time(), reason=reason, **start))
        layout.log.touch()
        process = self.nursery.start(self.layout.folder, number, log=layout.log, lifeline=lifeline, script=self.script)
        self.processes.append(process)
        return process

    def run(self, *, timeout_s: float = 120, **start: Any) -> int:
        """Run the next attempt to its end and return its exit code."""
        return self.start(**start).wait(timeout_s)

    def resume(self, *, timeout_s: float = 120) -> int:
        return self.run(reason="resume", timeout_s=timeout_s)

    @property
    def progress(self) -> Progress | None:
        return read_progress(self.layout.attempt(self.attempt).progress)

    @property
    def step(self) -> int:
        return self.progress.step if self.progress is not None else 0

    def wait_until(self, condition: Callable[[], bool], *, timeout_s: float = 60) -> None:
        """Poll until `condition` holds. Fail with the log at the timeout, or if the attempt has ended."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            ended = self.processes[-1].poll() is not None
            if (ended and not condition()) or time.monotonic() > deadline:
                raise AssertionError(f"{'it ended' if ended else 'too slow'}; the log says:\n{self.log}")
            time.sleep(0.002)

    def wait_for_step(self, step: int) -> None:
        self.wait_until(lambda: self.step >= step)

    def kill(self) -> None:
        """Kill only the trainer, with `kill -9`."""
        self.signal(signal.SIGKILL)
        self.processes[-1].wait(10)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.processes[-1].pid, number)

    def wait_free(self) -> None:
        """Wait until the checkpoint writer has ended, too."""
        RunLock.acquire(self.layout, timeout_s=30).release()

    @property
    def log(self) -> str:
        return self.layout.attempt(self.attempt).log.read_text()

    @property
    def outcome(self) -> TrainerOutcome:
        return read_record(self.layout.attempt(self.attempt).outcome, TrainerOutcome)

    def edit_config(self, **changes: Any) -> None:
        """Change the config in the run's record, which users must not do."""
        record = read_record(self.layout.record, RunRecord)
        write_record(self.layout.record, msgspec.structs.replace(record, config={**record.config, **changes}))

    def checkpoints_now(self) -> list[Any]:
        return self.store.list(higher_is_better=True).checkpoints

    def checkpoints(self) -> list[Any]:
        self.wait_free()
        return self.store.list(higher_is_better=True).checkpoints

    def final_digest(self) -> str:
        last = self.checkpoints()[-1]
        assert last.reason == "final", (last, self.log)
        alarms = [check.sentence for check in self.resume_checks() if check.verdict == "different"]
        assert alarms == [], "a resume that ends exactly raised an alarm"
        return self.store.digest(last)

    def resume_checks(self) -> list[ResumeCheck]:
        """Return what came of the comparisons of all attempts so far."""
        paths = [self.layout.attempt(number).resume_check for number in self.layout.list_attempts()]
        return [read_record(path, ResumeCheck) for path in paths if path.exists()]


@pytest.fixture
def spiral_file(tmp_path: Path) -> Path:
    path = tmp_path / "spiral.py"
    path.write_text(SPIRAL)
    return path


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """The nursery that starts all trainers."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Assert that no child process is left. It would keep all pipes of this process open, so others could not end."""
    yield
    assert multiprocessing.active_children() == []


@pytest.fixture
def make_run(tmp_path: Path, spiral_file: Path, nursery: Nursery) -> Iterator[Callable[..., TrainedRun]]:
    """Return a function that makes a run of the spiral task, or of a class in another file."""
    runs: list[TrainedRun] = []

    def make(name: str = "a run", *, file: Path = spiral_file, class_name: str = "Spiral", **config: Any) -> TrainedRun:
        task = TaskReference(kind="file", name=f"{file.name}:{class_name}", path=str(file), class_name=class_name)
        run = TrainedRun(tmp_path / "runs" / name, task, {"checkpoint_every_s": 0.05, **config}, nursery)
        runs.append(run)
        return run

    yield make
    _end_all(runs)


Fit = Callable[..., str]


@pytest.fixture
def fit(request: pytest.FixtureRequest, tmp_path: Path) -> Fit:
    """Return a function that runs the command line beside the module's SCRIPT, as fit.py, and returns what it says."""
    (tmp_path / "fit.py").write_text(request.module.SCRIPT)

    def run(*arguments: str, **environment: str) -> str:
        command = [sys.executable, "-m", "relight.cli", *arguments]
        environment = {**with_compiler(os.environ), "RELIGHT_RUNS": str(tmp_path / "runs"), **environment}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    return run


@pytest.fixture
def make_script(tmp_path: Path, nursery: Nursery) -> Iterator[Callable[..., TrainedRun]]:
    """Return a function that makes a run of a script. It takes the script's source or file, and its arguments."""
    runs: list[TrainedRun] = []

    def make(source: str | Path, *arguments: str, name: str = "a run", **config: Any) -> TrainedRun:
        path = source if isinstance(source, Path) else tmp_path / f"{name}.py"
        if isinstance(source, str):
            path.write_text(source)
        task = TaskReference(kind="script", name=path.name, path=str(path), arguments=arguments)
        run = TrainedRun(tmp_path / "runs" / name, task, config, nursery)
        runs.append(run)
        return run

    yield make
    _end_all(runs)


def _end_all(runs: list[TrainedRun]) -> None:
    for run in runs:
        for process in run.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        run.wait_free()
