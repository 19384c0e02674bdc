"""What is trained: the model, its data, its loss and metrics, and a typed config.

A task in about thirty lines:

    from relight import Task, TaskConfig, option

    class Spiral(Task):
        class Config(TaskConfig):
            hidden: int = option(64, "Units in the hidden layer.", ge=1, le=4096)

        best_metric = "accuracy"

        def build_model(self):
            return nn.Sequential(nn.Linear(2, self.config.hidden), nn.ReLU(), nn.Linear(self.config.hidden, 3))

        def build_data(self):
            return Data(train=..., validation=...)

        def step(self, model, batch):
            x, y = batch
            logits = model(x)
            return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from relight.tasks.config import TaskConfig
from relight.training.optimisation import build_optimizer, build_schedule


@dataclass(frozen=True)
class Data:
    """The data sets of a task, both map-style (`len` and integer index), and how samples make a batch.

    A data set with random augmentation defines `sample(index, generator)` beside `__getitem__`: it then gets a
    `torch.Generator` seeded from (run seed, epoch, index), which makes augmentation exact under any number of workers.

    `weights`, one number a sample, draws the training samples with replacement, each as often as its weight says.
    `train` may be a PyTorch `DataLoader` as well: its sampler, batches, collate and workers are then taken over.
    """

    train: Dataset[Any] | DataLoader[Any]
    validation: Dataset[Any] | None = None
    collate: Callable[[list[Any]], Any] | None = None
    drop_last: bool = False
    weights: Any = None


class Task:
    """Subclass this; `build_model`, `build_data` and `step` are all that must be given."""

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    best_metric: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool | None] = None  # None: lower for "loss", higher for everything else

    def __init__(self, config: TaskConfig) -> None:
        self.config: Any = config

    def build_model(self) -> nn.Module:
        """Build the model on the CPU. Random numbers come from generators already seeded with `config.seed`."""
        raise NotImplementedError(f"{type(self).__name__} must define build_model().")

    def build_data(self) -> Data:
        """Open the data. Raise `relight.TaskError` with a sentence when it is missing or broken."""
        raise NotImplementedError(f"{type(self).__name__} must define build_data().")

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Return 0-d tensors by name for one batch; "loss" is the one that is trained. Used for validation as well."""
        raise NotImplementedError(f"{type(self).__name__} must define step().")

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer that the config names, over the parameters that require gradients."""
        return build_optimizer(model, self.config)

    def build_scheduler(self, optimizer: torch.optim.Optimizer, *, steps_total: int) -> LRScheduler:
        """Build the learning-rate schedule that the config names; it is stepped once per optimizer step."""
        return build_schedule(optimizer, self.config, steps_total=steps_total)

    @classmethod
    def higher_wins(cls) -> bool:
        """Tell whether a higher value of `best_metric` is better."""
        return cls.best_metric != "loss" if cls.higher_is_better is None else cls.higher_is_better
