"""The two trainings of loop_overhead.py, as tasks: one that costs hardly more than the loop, and a small GPT."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from measuring.turns import Turns
from relight import Data, Task, TaskConfig
from relight.training.tasks.stdlib_gpt import StdlibGpt

FEATURES, CLASSES, SAMPLES = 32, 10, 8192
turns: list[Turns] = []
"""What to call at the beginning of each step; empty outside a measurement."""


class OneLayer(Task):
    """One linear layer on random numbers, with a step that takes tens of microseconds."""

    Config: ClassVar[type[TaskConfig]] = TaskConfig

    def build_model(self) -> nn.Module:
        """Build one linear layer."""
        return nn.Linear(FEATURES, CLASSES)

    def build_data(self) -> Data:
        """Make random numbers, without validation data."""
        generator = torch.Generator().manual_seed(0)
        return Data(
            TensorDataset(
                torch.randn(SAMPLES, FEATURES, generator=generator),
                torch.randint(CLASSES, (SAMPLES,), generator=generator),
            )
        )

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Return the cross-entropy."""
        for turn in turns:
            turn.edge()
        features, labels = batch
        return {"loss": F.cross_entropy(model(features), labels)}


class TinyGpt(StdlibGpt):
    """stdlib-gpt without validation, which would run between steps."""

    def build_data(self) -> Data:
        """Return the training data alone."""
        data = super().build_data()
        return Data(train=data.train, collate=data.collate)

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Do the step of stdlib-gpt."""
        for turn in turns:
            turn.edge()
        return super().step(model, batch)
