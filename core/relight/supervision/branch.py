"""Starting a new run from a checkpoint of another run, with a changed config."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from relight.checkpoints.listing import CheckpointInfo
from relight.errors import RelightError, UsageError
from relight.mirror.report import read_mirror, set_mirror
from relight.runs.catalog import create_run
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record_or_none, write_record
from relight.runs.records import AttemptStart, Parent, PreparedTask, SlurmJob, TaskReference, name_nproc
from relight.runs.run_record import Changes, RunDefinition, compare_configs, read_definition
from relight.supervision.attempt_start import Launched, start_first_attempt
from relight.supervision.branch_fit import refuse_misfit
from relight.supervision.checkpoint_choice import choose_for_branch
from relight.supervision.checkpoint_copy import copy_checkpoint, copy_weights
from relight.supervision.job_submission import count_nodes, read_plan
from relight.supervision.trainer_command import check_script
from relight.supervision.trust import require_trust

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
    nproc: int | None = None,
    slurm: SlurmJob | msgspec.UnsetType | None = msgspec.UNSET,
    trust: bool = False,
) -> Launched:
    """Create a run in the same runs folder from checkpoint `from_` ("latest", "best" or a step) and start it.

    The checkpoint is copied to the child's own store, so each run folder is self-contained, and the label "parent"
    keeps it in the parent. The child has its parent's mirror. `config_changes` maps keys to values, checked as
    in a launch. `arguments` replaces the arguments of a script. With `weights_only` the child takes only the weights of
    the modules, and starts at step 0 with a fresh optimizer. `slurm` and `nproc` say where it trains, as for a launch:
    by default like its parent, with as many ranks on each machine. A second call with the same `token` returns the same
    run. `trust` allows the code of a run that was made elsewhere.

    Raises UntrustedRun, CheckpointNotFound, DamagedCheckpoint, ConfigError, and RelightError when the disk is full or
    the config's model would not fit the checkpoint. After an error there is no new run.
    """
    definition = read_definition(layout)
    record = definition.record
    require_trust(layout, record, trust=trust)
    if record.task.kind == "script":
        plan = _plan_script(definition, config_changes, arguments)
    elif arguments is not None:
        raise UsageError(f"{record.task.name} takes no arguments. Change its options with --set KEY=VALUE.")
    else:
        from relight.tasks.reference import validate_config

        config = validate_config(record.task, {**record.config, **config_changes}).config
        plan = _Plan(record.task, config, compare_configs(record.config, config))
    mirror = read_mirror(layout)
    before = read_record_or_none(layout.attempt(layout.latest_attempt()).start, AttemptStart)
    planned = read_plan(layout) if isinstance(slurm, msgspec.UnsetType) else slurm
    each = nproc or max(1, (before.world_size if before is not None else 1) // count_nodes(layout))
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
        if mirror is not None:
            set_mirror(child, mirror)
        if planned is not None:
            write_record(child.slurm, planned)
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
            nproc=name_nproc(each * (planned.nodes if planned is not None else 1)),
            gpus=before.gpus if before is not None and planned is None else msgspec.UNSET,
        )

    return start_first_attempt(child, prepare)


def name_branch(parent: str, step: int) -> str:
    """Return the default name of a branch."""
    return f"{parent[:_PARENT_CHARACTERS]}-from-{step}"


@dataclass(frozen=True)
class _Plan:
    """What the child trains, and how that differs from its parent."""

    task: TaskReference
    config: dict[str, Any]
    changes: Changes
    parent_config: dict[str, Any] | None = None


def _plan_script(
    definition: RunDefinition, config_changes: Mapping[str, Any], arguments: Sequence[str] | None
) -> _Plan:
    """Plan the branch of a script, whose whole config is known only when it runs: record the changes known so far.

    New arguments replace everything that the parent's launch had set.
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
    """Copy the checkpoint. First label it in the parent, whose trainer may otherwise delete it during the copy."""
    from relight.checkpoints.retention import PARENT
    from relight.checkpoints.store import CheckpointStore

    store = CheckpointStore(layout.checkpoints)
    labeled_before = PARENT in info.labels
    kept = store.add_label(info, PARENT)
    try:
        copy = copy_weights if weights_only else copy_checkpoint
        return copy(store, kept, CheckpointStore(child.checkpoints))
    except BaseException:
        if not labeled_before:
            store.remove_label(kept, PARENT)
        raise
