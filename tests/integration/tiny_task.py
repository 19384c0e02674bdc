"""A task for tests that kill trainings: it has every kind of state that must survive, and adjustable step times."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relight import Task, TaskConfig, option
from relight.training.task import Data


class Points(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Two rings of points; each epoch jitters each sample again, with the generator for that sample."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(7)
        angle = torch.rand(count, generator=generator) * 6.28
        self.label = torch.arange(count) % 2
        self.points = torch.stack([angle.cos(), angle.sin()], dim=1) * (1 + self.label[:, None])

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.points[index], self.label[index]

    def sample(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        point, label = self[index]
        return point + 0.1 * torch.randn(2, generator=generator), label


class Tiny(Task):
    """Batch norm (buffers), dropout (random numbers), jitter (the loader's), Adam with a schedule, the best metric."""

    best_metric = "accuracy"

    class Config(TaskConfig):
        nap_s: float = option(0.004, "How long each step sleeps.", ge=0, le=10)
        samples: int = option(320, "Training samples.", ge=2)
        width: int = option(16, "Width of the hidden layer.", ge=1)
        fail_at: int = option(0, "Step at which it raises an exception; 0 never does.", ge=0)

    steps_seen = 0

    def build_model(self) -> nn.Module:
        width = self.config.width
        return nn.Sequential(
            nn.Linear(2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 2)
        )

    def build_data(self) -> Data:
        return Data(train=Points(self.config.samples), validation=Points(64))

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        if model.training:
            time.sleep(self.config.nap_s)
            self.steps_seen += 1
            if self.config.fail_at and self.steps_seen >= self.config.fail_at:
                raise ValueError("told to fail")
        x, y = batch
        scores = model(x)
        return {"loss": F.cross_entropy(scores, y), "accuracy": (scores.argmax(1) == y).float().mean()}
