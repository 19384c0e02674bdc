"""Putting an attempt together: task, device, writer process, session, trainer."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from relight.checkpoints.writer_client import WriterClient
from relight.runs.fingerprint import word_resume_caveat
from relight.runs.layout import RunLayout
from relight.runs.records import AttemptStart, RunRecord
from relight.tasks.parsing import parse_config
from relight.tasks.retention_options import read_retention
from relight.training.best_metric import BestMetric
from relight.training.checkpoint_cutter import CheckpointCutter, CutPolicy
from relight.training.device import choose_device
from relight.training.environment import (
    describe_environment,
    find_changes,
    prepare_determinism,
    shorten_environment,
    write_environment,
)
from relight.training.stopping import Stopping
from relight.training.task_loading import load_task_class
from relight.training.trainer import Trainer
from relight.training.training_session import TrainingSession

_log = logging.getLogger("relight")


def build_trainer(
    layout: RunLayout, record: RunRecord, start: AttemptStart, *, stopping: Stopping, inherit_fds: tuple[int, ...] = ()
) -> tuple[Trainer, TrainingSession]:
    """Build what attempt `start` of the run needs. Everything that a person can cause raises a `RelightError`."""
    task_class = load_task_class(record.task)
    config = parse_config(task_class.Config, record.config)
    _log.info("Task: %s, attempt %d of run %s.", record.task.name, start.attempt, record.run)
    device = choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    prepare_determinism(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    code_folder = Path(record.task.path).parent if record.task.path else None
    environment = describe_environment(device, code_folder=code_folder)
    attempt = layout.attempt(start.attempt)
    changes = find_changes(layout, start, environment)
    write_environment(attempt.environment, environment, changes=changes)
    if changes:
        _log.warning("%s", word_resume_caveat(changes, what="branch" if start.reason == "branch" else "resume"))
    best = BestMetric(record.best_metric, higher_is_better=record.higher_is_better)
    writer = WriterClient(
        layout.checkpoints,
        policy=read_retention(config, higher_is_better=record.higher_is_better),
        best=(record.best_metric, record.higher_is_better),
        inherit_fds=inherit_fds,
    )
    cutter = CheckpointCutter(
        attempt,
        policy=CutPolicy(every_s=config.checkpoint_every_s, every_steps=config.checkpoint_every_steps),
        writer=writer,
    )
    session = TrainingSession(
        layout, start, cutter=cutter, stopping=stopping, best=best,
        environment=shorten_environment(environment),
    )  # fmt: skip
    try:
        trainer = Trainer(task_class(config), session, device=device)
    except BaseException:
        session.close()
        raise
    return trainer, session
