"""Turns the retention options of a run, from its config or its script, into a policy, and applies it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relight.checkpoints.deletion import apply_retention
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.retention import BestRule, RetentionPlan, RetentionPolicy, parse_best_rules, plan_retention
from relight.checkpoints.store import CheckpointStore
from relight.errors import RelightError, UsageError
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.run_record import read_definition
from relight.tasks.config import TaskConfig
from relight.tasks.parsing import nearest_name, parse_config

KEYS = ("keep_latest", "keep_best", "keep_best_by", "keep_every_steps", "keep_every_hours")
"""The config keys that set the retention."""


def read_retention(config: Mapping[str, Any] | TaskConfig, *, higher_is_better: bool) -> RetentionPolicy:
    """Return the policy that a config asks for. A missing key has its default. Raises `ConfigError` for a bad value."""
    if not isinstance(config, TaskConfig):
        config = parse_config(TaskConfig, {key: config[key] for key in KEYS if key in config})
    return RetentionPolicy(
        newest=config.keep_latest,
        best=(
            BestRule(count=config.keep_best, higher_is_better=higher_is_better),
            *parse_best_rules(config.keep_best_by),
        ),
        every_steps=config.keep_every_steps or None,
        every_hours=config.keep_every_hours or None,
    )


def plan_run_retention(layout: RunLayout, changes: Mapping[str, Any] | None = None) -> RetentionPlan:
    """Return what the retention of a run would keep and delete now, with `changes` to its options. Delete nothing.

    Raises `UsageError` for a key that is not a retention option.
    """
    changes = changes or {}
    for key in changes:
        if key not in KEYS:
            near = nearest_name(key, KEYS)
            raise UsageError(
                f"'{key}' is not a retention option. "
                + (f"Did you mean '{near}'?" if near else f"The options are {', '.join(KEYS)}.")
            )
    definition = read_definition(layout)
    record, script = definition.record, definition.script
    config = record.config
    if record.task.kind == "script":  # the config belongs to the script, where a key may mean anything
        config = {} if script is None else script.settings
    policy = read_retention({**config, **changes}, higher_is_better=record.higher_is_better)
    return plan_retention(CheckpointStore(layout.checkpoints).list().checkpoints, policy)


def prune_run(layout: RunLayout, changes: Mapping[str, Any]) -> tuple[RetentionPlan, Sequence[CheckpointInfo]]:
    """Delete the checkpoints that the retention of a run does not keep, with `changes` to its options.

    Returns the plan and the checkpoints that were deleted. Raises `RunBusy` while the run is training, and
    `RelightError` when files cannot be deleted.
    """
    with RunLock.acquire(layout):
        plan = plan_run_retention(layout, changes)
        try:
            return plan, apply_retention(CheckpointStore(layout.checkpoints), plan)
        except OSError as error:
            raise RelightError(
                f"Old checkpoints of {layout.run_id} could not be deleted: {error.strerror or error} "
                f"({layout.checkpoints})."
            ) from error
