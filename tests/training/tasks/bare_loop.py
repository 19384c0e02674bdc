"""The simplest loop that trains a task: like the engine's, but without checkpoints, metrics and processes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from relight.training.data.loader import Loader, ValidationLoader
from relight.training.task import Task


@dataclass
class Outcome:
    """The trained model, the loss of each step, and the metrics of the last validation."""

    model: nn.Module
    losses: list[float] = field(default_factory=list)
    validation: dict[str, float] = field(default_factory=dict)


def train(task: Task) -> Outcome:
    """Train `task` on the CPU for the number of epochs (or steps) in its config."""
    config = task.config
    torch.manual_seed(config.seed)
    model = task.build_model()
    data = task.build_data()
    loader = Loader(
        data.train, batch_size=config.batch_size, seed=config.seed, collate=data.collate, drop_last=data.drop_last,
        epochs=config.epochs,
    )  # fmt: skip
    steps_total = config.max_steps or config.epochs * loader.batches
    optimizer = task.build_optimizer(model)
    scheduler = task.build_scheduler(optimizer, steps_total=steps_total)
    outcome = Outcome(model)
    while len(outcome.losses) < steps_total:
        for batch in loader:
            loss = task.step(model, batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            if config.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            scheduler.step()
            outcome.losses.append(loss.item())
            if len(outcome.losses) == steps_total:
                break
    if data.validation is not None:
        outcome.validation = validate(task, model)
    return outcome


def validate(task: Task, model: nn.Module) -> dict[str, float]:
    """Return each metric, averaged over the samples of the validation data."""
    data, config = task.build_data(), task.config
    assert data.validation is not None
    sums: dict[str, float] = {}
    count = 0
    model.eval()
    with torch.no_grad():
        batches = ValidationLoader(
            data.validation, batch_size=config.batch_size, seed=config.seed, collate=data.collate
        )
        for batch, samples in batches:
            for name, value in task.step(model, batch).items():
                sums[name] = sums.get(name, 0.0) + float(value) * samples
            count += samples
    model.train()
    return {name: total / count for name, total in sums.items()}
