"""The built-in tasks by name, with everything a launch form needs before torch is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relight.errors import UsageError
from relight.runs.records import Objective
from relight.tasks import digits_config, images_config, stdlib_gpt_config
from relight.tasks.config import TaskConfig
from relight.tasks.parsing import nearest_name


@dataclass(frozen=True)
class BuiltinTask:
    """A task that ships with Relight; `implementation` is "module:Class", which only the trainer imports.

    `check` raises a `RelightError` when a config cannot be trained on this machine. It does not load torch.
    """

    name: str
    title: str
    summary: str
    config_class: type[TaskConfig]
    implementation: str
    objective: Objective
    check: Callable[[Any], None]


BUILTIN_TASKS: dict[str, BuiltinTask] = {
    task.name: task
    for task in (
        BuiltinTask(
            name="digits",
            title="Digits",
            summary="A small convolutional network reads 1,797 scanned handwritten digits. Takes a few seconds.",
            config_class=digits_config.DigitsConfig,
            implementation="relight.training.tasks.digits:Digits",
            objective=Objective("validation/accuracy", higher_is_better=True),
            check=digits_config.check,
        ),
        BuiltinTask(
            name="stdlib-gpt",
            title="Standard library GPT",
            summary="A byte-level GPT, 0.9M to 124M parameters, learns to write Python from the standard library.",
            config_class=stdlib_gpt_config.StdlibGptConfig,
            implementation="relight.training.tasks.stdlib_gpt:StdlibGpt",
            objective=Objective("validation/loss", higher_is_better=False),
            check=stdlib_gpt_config.check,
        ),
        BuiltinTask(
            name="images",
            title="Images",
            summary="A ResNet, trained from scratch, classifies your own pictures: one folder per class.",
            config_class=images_config.ImagesConfig,
            implementation="relight.training.tasks.images:Images",
            objective=Objective("validation/accuracy", higher_is_better=True),
            check=images_config.check,
        ),
    )
}


def find_builtin(name: str) -> BuiltinTask:
    """Return the built-in task called `name`. Raises `UsageError` with the nearest name and all names."""
    if name in BUILTIN_TASKS:
        return BUILTIN_TASKS[name]
    near = nearest_name(name, BUILTIN_TASKS)
    hint = f" Did you mean '{near}'?" if near else ""
    raise UsageError(
        f"Unknown task '{name}'.{hint} Built-in tasks are {', '.join(BUILTIN_TASKS)}; "
        "write your own task as FILE.py:Class."
    )
