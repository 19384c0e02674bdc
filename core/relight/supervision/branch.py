"""Starting a new run from another's checkpoint, with a changed config."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from relight.checkpoints.listing import CheckpointInfo
from relight.errors import RelightError, UsageError
from relight.runs.catalog import create_run
from relight.runs.layout import RunLayout
from relight.runs.records import AttemptStart, Parent, PreparedTask, TaskReference
from relight.runs.run_record import Changes, RunDefinition, compare_configs, read_definition
from relight.supervision.attempt_start import Launched, start_first_attempt
from relight.supervision.branch_fit import refuse_misfit
from relight.supervision.checkpoint_choice import choose_for_branch
from relight.supervision.checkpoint_copy import copy_checkpoint, copy_weights
from relight.supervision.trainer_command import check_script

_PARENT_CHARACTERS = 150


def branch_run(
    layout: RunLayout,
    *,
    from_: str | int,
    config_changes: Mapping[str, Any],
    arguments: Sequence[str] | None = None,
    weights_only: bool = False,
    name: str | None = None,
    token: str | None = None,
    max_restarts: int = 0,
) -> Launched:
    """Create a run beside `layout`'s from its checkpoint `from_` ("latest", "best" or a step) and start it.

    The checkpoint is copied into the child's own store, so that either folder can go anywhere by itself, and is kept in
    the parent by the label "parent". `config_changes` are values by key, checked as those of a launch. A script may get
    other `arguments`. With `weights_only` the child begins at step 0 with a fresh optimizer, and takes nothing but its
    modules' weights. The same `token` again gives the same run.

    Raises CheckpointNotFound, DamagedCheckpoint, ConfigError, and RelightError when the disk is full or the config's
    model would not fit the checkpoint; none of them leaves a run behind.
    """
    definition = read_definition(layout)
    record = definition.record
    if record.task.kind == "script":
        plan = _plan_script(definition, config_changes, arguments)
    elif arguments is not None:
        raise UsageError(f"{record.task.name} takes no arguments: change its options with --set KEY=VALUE.")
    else:
        from relight.tasks.reference import validate_config

        config = validate_config(record.task, {**record.config, **config_changes}).config
        plan = _Plan(record.task, config, compare_configs(record.config, config))
    info, notes = choose_for_branch(layout, record, from_)
    refuse_misfit(layout, record, plan.config, info)
    parent = Parent(
        run=record.run,
        step=info.step,
        sequence=info.sequence,
        changes=plan.changes,
        weights_only=weights_only,
        config=plan.parent_config,
    )
    child, created = create_run(
        layout.folder.parent,
        PreparedTask(plan.task, plan.config, record.objective),
        name=name or name_branch(record.name, info.step),
        token=token,
        parent=parent,
    )

    def prepare() -> AttemptStart:
        try:
            copied = _copy(layout, info, child, weights_only=weights_only)
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
            weights_only=weights_only,
            notes=notes,
            max_restarts=max_restarts,
            token=token,
        )

    return start_first_attempt(child, prepare)


def name_branch(parent: str, step: int) -> str:
    """What a branch is called when nobody says otherwise: both can be named then."""
    return f"{parent[:_PARENT_CHARACTERS]}-from-{step}"


@dataclass(frozen=True)
class _Plan:
    """What the child trains, and how that differs from what its parent trains."""

    task: TaskReference
    config: dict[str, Any]
    changes: Changes
    parent_config: dict[str, Any] | None = None


def _plan_script(
    definition: RunDefinition, config_changes: Mapping[str, Any], arguments: Sequence[str] | None
) -> _Plan:
    """A script's whole config is known only when it runs: what is known of the changes by now is written down.

    New arguments stand instead of all that the parent's launch had set.
    """
    from relight.tasks.script_config import apply_overrides

    record = definition.record
    check_script(record.task)
    changes: Changes = {}
    task = record.task
    set_before: Mapping[str, Any] = definition.launched.config
    if arguments is not None and tuple(arguments) != task.arguments:
        changes["script arguments"] = (list(task.arguments), list(arguments))
        task = msgspec.structs.replace(task, arguments=tuple(arguments))
        set_before = {}
    elif definition.script is not None:
        changed = dict(record.config)
        apply_overrides(changed, config_changes)
        changes |= compare_configs(record.config, changed)
    return _Plan(task, {**set_before, **config_changes}, changes, dict(record.config))


def _copy(layout: RunLayout, info: CheckpointInfo, child: RunLayout, *, weights_only: bool) -> CheckpointInfo:
    """Copy it, and keep it in the parent: before the copy begins, since a living trainer may be about to thin out."""
    from relight.checkpoints.retention import PARENT
    from relight.checkpoints.store import CheckpointStore

    store = CheckpointStore(layout.checkpoints)
    labelled_before = PARENT in info.labels
    kept = store.add_label(info, PARENT)
    try:
        copy = copy_weights if weights_only else copy_checkpoint
        return copy(store, kept, CheckpointStore(child.checkpoints))
    except BaseException:
        if not labelled_before:
            store.remove_label(kept, PARENT)
        raise
