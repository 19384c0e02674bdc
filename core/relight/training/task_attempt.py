"""Runs one attempt of a task from start to end: reads the records, builds the trainer, trains, records the outcome."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import AttemptStart, RunRecord
from relight.training.attempt_ending import AttemptEnding, is_worker_death
from relight.training.ranks.place import RankPlace, find_place
from relight.training.stopping import Stopping, TrainingStopped


def run_attempt(folder: Path, number: int, *, lifeline: int | None = None, lock_fd: int | None = None) -> int:
    """Run attempt `number` of the run in `folder`; return the exit code that its supervisor expects.

    Loads torch only after the signal handlers are installed, so that a stop works from the first moment.
    """
    start = read_record(RunLayout(folder).attempt(number).start, AttemptStart)
    place = find_place() if start.world_size > 1 else None
    layout = RunLayout(folder).of_rank(place.rank if place is not None else 0)
    stopping = Stopping(layout, number)
    stopping.interruptible = True
    stopping.install(lifeline=lifeline)
    ending = AttemptEnding(layout, number, stopping)
    try:
        trainer = _build(layout, start, ending, lock_fd=lock_fd, place=place)
        if ending.session.group is not None:
            ending.session.group.watch(ending.end_lost)
        stopping.interruptible = stopping.building = False
        trainer.run()
    except TrainingStopped as stopped:
        return ending.end_stopped(stopped.stop)
    except BaseException as error:
        stopping.together = None  # the other ranks may be elsewhere
        stop = stopping.check(0.0)
        if stop is not None and is_worker_death(error):
            return ending.end_stopped(stop)
        return ending.end_crashed(error)
    return ending.end_finished()


def _build(
    layout: RunLayout,
    start: AttemptStart,
    ending: AttemptEnding,
    *,
    lock_fd: int | None,
    place: RankPlace | None,
) -> Any:
    """Build the session and the trainer, hand both to `ending`, and return the trainer."""
    record = read_record(layout.record, RunRecord)
    from relight.training.assembly import build_trainer  # loads torch

    ending.trainer, ending.session = build_trainer(
        layout, record, start, stopping=ending.stopping, inherit_fds=() if lock_fd is None else (lock_fd,), place=place
    )
    return ending.trainer


def close_in_children(descriptors: tuple[int, ...]) -> None:
    """Close `descriptors` in every forked child, so that a data-loading process cannot keep the run locked."""

    def close() -> None:
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    os.register_at_fork(after_in_child=close)
