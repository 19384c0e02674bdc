"""`Task`, the base class of everything that is trained: a model, its data, its loss and metrics, and a typed config.

A complete task takes about thirty lines:

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

from relight.runs.records import Objective
from relight.tasks.config import TaskConfig, full_metric_name
from relight.training.best_metric import choose_objective
from relight.training.optimisation import build_optimizer, build_schedule


@dataclass(frozen=True)
class Data:
    """The data sets of a task, and how samples become a batch. Both sets are map-style (`len` and an integer index).

    A data set with random augmentation defines `sample(index, generator)` in addition to `__getitem__`. It then gets a
    `torch.Generator` seeded from (run seed, epoch, index), which makes augmentation exact with any number of workers.

    With `weights`, one number per sample, training samples are drawn with replacement, in proportion to their weights.
    `train` may also be a PyTorch `DataLoader`: Relight then takes over its sampler, batches, collate and workers.
    """

    train: Dataset[Any] | DataLoader[Any]
    validation: Dataset[Any] | None = None
    collate: Callable[[list[Any]], Any] | None = None
    drop_last: bool = False
    weights: Any = None


class Task:
    """The base class of a task. A subclass must define `build_model`, `build_data` and `step`."""

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    best_metric: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool | None] = None  # None: what the metric's name says, else higher

    def __init__(self, config: TaskConfig) -> None:
        self.config: Any = config

    def build_model(self) -> nn.Module:
        """Build the model on the CPU. All global generators have been seeded with `config.seed`."""
        raise NotImplementedError(f"{type(self).__name__} must define build_model().")

    def build_data(self) -> Data:
        """Open the data. Raise `relight.TaskError` with a clear sentence if it is missing or broken."""
        raise NotImplementedError(f"{type(self).__name__} must define build_data().")

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Return 0-d tensors by name for one batch. "loss" is trained on. Validation calls this method too."""
        raise NotImplementedError(f"{type(self).__name__} must define step().")

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer that the config names for the parameters that require gradients."""
        return build_optimizer(model, self.config)

    def build_scheduler(self, optimizer: torch.optim.Optimizer, *, steps_total: int) -> LRScheduler:
        """Build the learning-rate schedule that the config names. It is stepped once per optimizer step."""
        return build_schedule(optimizer, self.config, steps_total=steps_total)

    @classmethod
    def objective(cls) -> Objective:
        """Return what `best` means for this task."""
        return choose_objective(full_metric_name(cls.best_metric), higher_is_better=cls.higher_is_better)
