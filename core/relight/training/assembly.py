"""Builds an attempt of a task: its device, session and trainer."""

from __future__ import annotations

import logging

import torch

from relight.runs.layout import RunLayout
from relight.runs.records import AttemptStart, RunRecord
from relight.tasks.parsing import parse_config
from relight.training.environment import prepare_determinism
from relight.training.ranks.data_parallel import DataParallel, choose_rank_device
from relight.training.ranks.group import RankGroup
from relight.training.ranks.place import RankPlace
from relight.training.session_parts import make_session_parts
from relight.training.stopping import Stopping
from relight.training.task_loading import load_task_class
from relight.training.trainer import Trainer
from relight.training.training_session import TrainingSession

_log = logging.getLogger("relight")


def build_trainer(
    layout: RunLayout,
    record: RunRecord,
    start: AttemptStart,
    *,
    stopping: Stopping,
    inherit_fds: tuple[int, ...] = (),
    place: RankPlace | None = None,
) -> tuple[Trainer, TrainingSession]:
    """Build the trainer and the session of attempt `start`, in one of several ranks those of `place`.

    The checkpoint writer inherits the descriptors `inherit_fds`. Raises a `RelightError` for every mistake that a
    person can make: in the config, in the task's file, in its data.
    """
    task_class = load_task_class(record.task)
    config = parse_config(task_class.Config, record.config)
    _log.info("Task: %s, attempt %d of run %s.", record.task.name, start.attempt, record.run)
    device = choose_rank_device(config.device, place)
    if config.threads:
        torch.set_num_threads(config.threads)
    prepare_determinism(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    group = None if place is None else RankGroup(place)
    ranks = None if place is None else DataParallel(place, device=device)
    parts = make_session_parts(
        layout, start, task=record.task, device=device, options=config, objective=record.objective,
        inherit_fds=inherit_fds, group=group,
    )  # fmt: skip
    session = TrainingSession(layout, start, parts, stopping=stopping)
    try:
        trainer = Trainer(task_class(config), session, device=device, ranks=ranks)
    except BaseException:
        session.close()
        raise
    return trainer, session
