"""Refusing a branch whose changed config makes a model that does not fit the parent's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relight.checkpoints.listing import CheckpointInfo
from relight.errors import RelightError
from relight.regular_file import read_regular
from relight.runs.layout import RunLayout
from relight.runs.records import RunRecord, TaskReference


def refuse_misfit(layout: RunLayout, record: RunRecord, config: Mapping[str, Any], info: CheckpointInfo) -> None:
    """Raise `RelightError` with the names of the tensors when the config's model does not fit checkpoint `info`.

    Only a change of the task's own options, or of its code, can change the model. A change of an option that every task
    has (learning rate, batch size, epochs, …) is not checked: the check costs a process that loads torch.
    """
    changed = [key for key in sorted({*record.config, *config}) if record.config.get(key) != config.get(key)]
    own = [key for key in changed if key not in _common_options()]
    if record.task.kind == "script" or not (own or _code_has_changed(record.task)):
        return
    from relight.tasks.inspection import inspect_task

    answer = inspect_task(record.task, config=config, fits=(layout.checkpoints, info.sequence))
    if not answer.misfit:
        return
    changes = ", ".join(f"{key}={config.get(key)}" for key in own)
    where = f"the checkpoint at step {info.step} of {layout.run_id}"
    if changes:
        raise RelightError(
            f"You cannot branch with {changes}: the model would not fit {where}. {answer.misfit}. Keep the old "
            "value, or launch a new run."
        )
    raise RelightError(
        f"You cannot branch: the code of {record.task.name} has changed, and its model no longer fits {where}. "
        f"{answer.misfit}. Restore the code that saved the checkpoint, or launch a new run."
    )


def _common_options() -> frozenset[str]:
    from relight.tasks.config import TaskConfig

    return frozenset(TaskConfig.model_fields)


def _code_has_changed(task: TaskReference) -> bool:
    """Return whether the task's file has changed since the run was created."""
    if task.kind != "file" or task.path is None or task.code_digest is None:
        return False
    import xxhash

    try:
        return xxhash.xxh3_128_hexdigest(read_regular(task.path, follow_links=True)) != task.code_digest
    except OSError:
        return False  # checking the config gives a better message
