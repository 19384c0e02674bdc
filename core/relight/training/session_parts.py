"""What the sessions of tasks and of scripts are made of: the environment on record, and the checkpoint writer."""

from __future__ import annotations

import logging
import math
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.writer_client import WriterClient
from relight.errors import RelightError
from relight.runs.failures import FailureHistory, read_failures
from relight.runs.fingerprint import word_resume_caveat
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record_or_none
from relight.runs.records import AttemptStart, DrillOrder, Objective, Pace, SavingState, TaskReference
from relight.tasks.config import TaskConfig
from relight.tasks.retention_options import read_retention
from relight.training.best_metric import BestMetric
from relight.training.checkpoint_cutter import CheckpointCutter, CutPolicy, Experience
from relight.training.drilled_steps import DrilledSteps, read_drill_order
from relight.training.environment import describe_environment, find_changes, shorten_environment, write_environment
from relight.training.pacing import Budget
from relight.training.ranks.group import ASK_EVERY_S, RankGroup
from relight.training.ranks.ranked_cutter import RankedCutter

_SHARE_A_DAY = 1 / 3
"""Of its capacity, what an ordinary drive may be written per day: 600 TB per TB of capacity in five years."""
_log = logging.getLogger("relight")


@dataclass(frozen=True)
class SessionParts:
    """What a session needs from outside: the cutter with its writer process, the best value so far, the environment.

    Every checkpoint keeps `environment`.
    """

    cutter: CheckpointCutter | RankedCutter
    best: BestMetric
    environment: dict[str, Any]
    drill: DrilledSteps | None = None
    """What a drill has ordered; None for every other run."""
    group: RankGroup | None = None
    """All ranks of the training; None for one process."""


def make_session_parts(
    layout: RunLayout,
    start: AttemptStart,
    *,
    task: TaskReference,
    device: torch.device,
    options: TaskConfig,
    objective: Objective,
    inherit_fds: tuple[int, ...],
    group: RankGroup | None = None,
) -> SessionParts:
    """Record the environment of attempt `start`, warn of what has changed in it, and start the writer process.

    `options` say when checkpoints are cut and which are kept. The writer inherits the descriptors `inherit_fds`.
    """
    attempt = layout.attempt(start.attempt)
    environment = describe_environment(device, code_folder=Path(task.path).parent if task.path else None)
    if group is not None:
        environment["world_size"] = group.world_size
    changes = find_changes(layout, start, environment)
    write_environment(attempt.environment, environment, changes=changes)
    if changes:
        _log.warning("%s", word_resume_caveat(changes, what="branch" if start.reason == "branch" else "resume"))
    order = read_drill_order(layout, start.attempt)
    make_cutter = partial(
        _make_cutter, layout, start, order, options=options, objective=objective, inherit_fds=inherit_fds,
        rank=None if group is None else group.rank,
    )  # fmt: skip
    cutter = make_cutter() if group is None else RankedCutter(group, CheckpointStore(layout.checkpoints), make_cutter)
    drill = None if order is None else DrilledSteps(order, cutter, group=group)
    return SessionParts(cutter, BestMetric(objective), shorten_environment(environment), drill, group)


def _make_cutter(
    layout: RunLayout,
    start: AttemptStart,
    order: DrillOrder | None,
    *,
    options: TaskConfig,
    objective: Objective,
    inherit_fds: tuple[int, ...],
    rank: int | None,
) -> CheckpointCutter:
    """Start the writer process, and make the cutter that hands it the snapshots."""
    writer = WriterClient(
        layout.checkpoints,
        policy=read_retention(options, higher_is_better=objective.higher_is_better),
        inherit_fds=inherit_fds,
        rank=rank,
    )
    policy = CutPolicy(
        every_s=options.checkpoint_every_s,
        every_steps=0 if order is not None and order.kill_step else options.checkpoint_every_steps,
        at_step=0 if order is None else order.checkpoint_step,
        budget=Budget(options.max_loss_s, options.max_overhead, _limit_bytes_a_day(layout)),
        late_s=0.0 if rank is None else ASK_EVERY_S,
    )
    experience = Experience(_read_last_pace(layout, start), _read_failures(layout))
    return CheckpointCutter(layout.attempt(start.attempt), policy=policy, writer=writer, experience=experience)


def _limit_bytes_a_day(layout: RunLayout) -> float:
    try:
        return shutil.disk_usage(layout.folder).total * _SHARE_A_DAY
    except OSError:
        return math.inf


def _read_last_pace(layout: RunLayout, start: AttemptStart) -> Pace | None:
    """Return the pace of the newest earlier attempt that knows what a checkpoint costs."""
    for number in reversed([number for number in layout.list_attempts() if number < start.attempt]):
        saving = read_record_or_none(layout.attempt(number).saving, SavingState)
        if saving is not None and saving.pace is not None and saving.pace.durable_s is not None:
            return saving.pace
    return None


def _read_failures(layout: RunLayout) -> FailureHistory:
    try:
        return read_failures(layout.folder.parent, now_s=time.time())
    except RelightError:
        return FailureHistory()
