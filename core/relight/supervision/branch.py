"""Starting a new run from another's checkpoint, with a changed config."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relight.checkpoints.listing import CheckpointInfo
from relight.errors import RelightError
from relight.runs.catalog import create_run
from relight.runs.layout import RunLayout
from relight.runs.records import AttemptStart, Parent, TaskReference
from relight.runs.summary import read_run_record
from relight.supervision.attempt import Launched, start_first_attempt
from relight.supervision.branch_fit import refuse_misfit
from relight.supervision.checkpoint_choice import choose_for_branch
from relight.supervision.checkpoint_copy import copy_checkpoint

Validate = Callable[[TaskReference, Mapping[str, Any]], dict[str, Any]]
"""From a task and a config as given to the complete config; raises ConfigError."""


def branch_run(
    layout: RunLayout,
    *,
    from_: str | int,
    config_changes: Mapping[str, Any],
    name: str | None = None,
    token: str | None = None,
    max_restarts: int = 0,
    validate: Validate | None = None,
    command: Sequence[str] | None = None,
) -> Launched:
    """Create a run beside `layout`'s from its checkpoint `from_` ("latest", "best" or a step) and start it.

    The checkpoint is copied into the child's own store, so that either folder can go anywhere by itself, and is kept in
    the parent by the label "parent". `config_changes` are values by key, checked as those of a launch (`validate`
    replaces that check). The same `token` again gives the same run. Raises CheckpointNotFound, DamagedCheckpoint,
    ConfigError, and RelightError when the disk is full or the config's model would not fit the checkpoint; none of them
    leaves a run behind.
    """
    record = read_run_record(layout)
    config = (validate or _validate)(record.task, {**record.config, **config_changes})
    info, notes = choose_for_branch(layout, from_)
    refuse_misfit(layout, record, config, info)
    parent = Parent(
        run=record.run,
        step=info.step,
        sequence=info.sequence,
        changes={
            key: (record.config.get(key), config.get(key))
            for key in sorted({*record.config, *config})
            if record.config.get(key) != config.get(key)
        },
    )
    child, created = create_run(
        layout.folder.parent,
        task=record.task,
        config=config,
        best_metric=record.best_metric,
        higher_is_better=record.higher_is_better,
        name=name or record.name,
        token=token,
        parent=parent,
    )

    def prepare() -> AttemptStart:
        try:
            copied = _copy(layout, info, child)
        except (OSError, RelightError):
            if created:
                shutil.rmtree(child.folder, ignore_errors=True)
            raise
        return AttemptStart(
            attempt=1,
            time_s=time.time(),
            reason="branch",
            from_sequence=copied.sequence,
            from_step=copied.step,
            notes=notes,
            max_restarts=max_restarts,
            token=token,
        )

    return start_first_attempt(child, prepare, command=command)


def _copy(layout: RunLayout, info: CheckpointInfo, child: RunLayout) -> CheckpointInfo:
    """Copy it, and keep it in the parent: before the copy begins, since a living trainer may be about to thin out."""
    from relight.checkpoints.retention import PARENT
    from relight.checkpoints.store import CheckpointStore

    store = CheckpointStore(layout.checkpoints)
    labelled_before = PARENT in info.labels
    kept = store.add_label(info, PARENT)
    try:
        return copy_checkpoint(store, kept, CheckpointStore(child.checkpoints))
    except BaseException:
        if not labelled_before:
            store.remove_label(kept, PARENT)
        raise


def _validate(task: TaskReference, config: Mapping[str, Any]) -> dict[str, Any]:
    from relight.tasks.reference import validate_config

    return validate_config(task, config).config
