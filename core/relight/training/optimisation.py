"""Builds the optimizer and the learning-rate schedule that a config names. The state of both restores exactly."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from relight.errors import TaskError
from relight.tasks.config import TaskConfig

STEP_FACTOR = 0.1  # the "step" schedule divides the rate by 10 …
STEP_STAGES = 3  # … after each third of the steps that follow warm-up


def build_optimizer(model: nn.Module, config: TaskConfig) -> torch.optim.Optimizer:
    """Build the optimizer that `config` names for the parameters of `model` that require gradients.

    Weight decay applies to matrices and convolution kernels, not to 1-d parameters (biases, norms). Groups and their
    parameters keep the order of `model.parameters()`, so the same model always gives the same optimizer.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise TaskError(f"{type(model).__name__} has no parameter to train. At least one needs requires_grad=True.")
    split = {
        config.weight_decay: [parameter for parameter in trained if parameter.ndim >= 2],
        0.0: [parameter for parameter in trained if parameter.ndim < 2],
    }
    if config.weight_decay == 0:
        split = {0.0: trained}
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay} for decay, parameters in split.items() if parameters
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def build_schedule(optimizer: torch.optim.Optimizer, config: TaskConfig, *, steps_total: int) -> Schedule:
    """Build the schedule that `config` names for `steps_total` optimizer steps."""
    return Schedule(optimizer, shape=config.schedule, warmup_steps=config.warmup_steps, steps_total=steps_total)


def schedule_factor(step: int, *, shape: str, warmup_steps: int, steps_total: int) -> float:
    """Return the learning rate of optimizer step `step` (counted from 0) as a fraction of the peak rate, 0 to 1.

    Warm-up rises as (step + 1) / warmup_steps, so the first step already trains. After that, "cosine" follows half a
    cosine to 0 (Loshchilov and Hutter, 2017, without restarts), "linear" a straight line to 0, and "step" divides by 10
    after each third. Past the end, the last value stays.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, steps_total - warmup_steps))
    if shape == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if shape == "linear":
        return 1.0 - progress
    if shape == "step":
        return STEP_FACTOR ** min(STEP_STAGES - 1, int(progress * STEP_STAGES))
    return 1.0


class Schedule(LRScheduler):
    """A learning rate that is a pure function of the step.

    Its state is only the step: rates are computed from the config and never accumulated. So a resume cannot drift, and
    a branch with another rate or length follows its own schedule from the step at which it starts.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, shape: str, warmup_steps: int = 0, steps_total: int = 1
    ) -> None:
        self.shape = shape
        self.warmup_steps = warmup_steps
        self.steps_total = steps_total
        # A branch may pass an optimizer that still holds its parent's peak rate; here the current rate is the peak.
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each parameter group at the current step."""
        factor = schedule_factor(
            self.last_epoch, shape=self.shape, warmup_steps=self.warmup_steps, steps_total=self.steps_total
        )
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the current step and the step count of PyTorch's base class, both ints."""
        return {"last_epoch": self.last_epoch, "step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved step, and set the optimizer's rates to those of that step."""
        self.last_epoch = int(state_dict["last_epoch"])
        self._step_count = int(state_dict["step_count"])
        rates = self.get_lr()
        for group, base, rate in zip(self.optimizer.param_groups, self.base_lrs, rates, strict=True):
            group["initial_lr"] = base
            group["lr"] = rate
        self._last_lr = rates
