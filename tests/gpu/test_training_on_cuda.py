"""A training on the card never waits for it within a step, and resumes exactly in every precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from relight import Data, Task, TaskConfig
from relight.checkpoints.retention import BestRule, RetentionPolicy
from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.writer_client import WriterClient
from relight.metrics.series import read_series
from relight.runs.layout import RunLayout
from relight.runs.records import AttemptStart, Objective
from relight.training.best_metric import BestMetric
from relight.training.checkpoint_cutter import CheckpointCutter, CutPolicy
from relight.training.environment import prepare_determinism
from relight.training.session_parts import SessionParts
from relight.training.stopping import Stopping
from relight.training.trainer import Trainer
from relight.training.training_session import TrainingSession

pytestmark = pytest.mark.gpu

LOWER_IS_BETTER = RetentionPolicy(best=(BestRule(higher_is_better=False),))


class Pictures(Task):
    """A small network whose kernels, buffers and random numbers all live on the device."""

    watch: Callable[[int], None] | None = None
    steps = 0

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(8 * 36, 4)
        )

    def build_data(self) -> Data:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(256, 1, 8, 8, generator=generator)
        return Data(train=TensorDataset(x, torch.randint(0, 4, (256,), generator=generator)))

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        self.steps += 1
        if self.watch is not None:
            self.watch(self.steps)
        x, y = batch
        return {"loss": F.cross_entropy(model(x), y)}


def train(folder: Path, task: Task, *, device: torch.device, attempt: int = 1, **start: Any) -> CheckpointStore:
    """Run one attempt to its end."""
    prepare_determinism(device)
    layout = RunLayout(folder)
    layout.attempt(attempt).folder.mkdir(parents=True)
    writer = WriterClient(layout.checkpoints, policy=LOWER_IS_BETTER)
    session = TrainingSession(
        layout,
        AttemptStart(attempt=attempt, time_s=0.0, reason="resume" if attempt > 1 else "launch", **start),
        SessionParts(
            CheckpointCutter(layout.attempt(attempt), policy=CutPolicy(0.0, 0), writer=writer),
            BestMetric(Objective("validation/loss", higher_is_better=False)),
            environment={},
        ),
        stopping=Stopping(layout, attempt),
    )
    try:
        Trainer(task, session, device=device).run()
    finally:
        session.close()
    return CheckpointStore(layout.checkpoints)


def config(device: torch.device, **changes: Any) -> TaskConfig:
    return TaskConfig(**{"epochs": 2, "batch_size": 16, "device": device.type, "clip_norm": 1.0, **changes})


def test_a_step_never_waits_for_the_device(tmp_path: Path, device: torch.device) -> None:
    task = Pictures(config(device))

    def forbid_waiting(step: int) -> None:
        # The first steps load libraries, and the last one ends the training: both may wait.
        torch.cuda.set_sync_debug_mode("error" if 3 <= step < 32 else "default")

    if device.type == "cuda":
        task.watch = forbid_waiting
    try:
        train(tmp_path / "run", task, device=device)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert read_series(tmp_path / "run" / "metrics", "train/loss").steps.tolist() == list(range(1, 33))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resume_in_mid_epoch_is_exact(tmp_path: Path, device: torch.device, precision: str) -> None:
    if precision == "fp16" and device.type != "cuda":
        pytest.skip("fp16 needs a CUDA GPU")
    # A constant learning rate: a schedule would depend on the length of the training, and the first part is shorter.
    options = {"precision": precision, "schedule": "constant"}
    twin = train(tmp_path / "twin", Pictures(config(device, **options)), device=device)
    store = train(tmp_path / "run", Pictures(config(device, **options, max_steps=21)), device=device)
    half = store.list().checkpoints[-1]
    assert half.step == 21
    task = Pictures(config(device, **options))
    store = train(tmp_path / "run", task, device=device, attempt=2, from_sequence=half.sequence, from_step=21)
    assert store.digest(store.list().checkpoints[-1]) == twin.digest(twin.list().checkpoints[-1])
