"""Relight: training runs that cannot be lost.

Importing this package loads neither torch nor pydantic: each public name is fetched when it is first asked for, so
that the supervisor and the command line stay small and start fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from relight.errors import RelightError, TaskError
from relight.start_folder import START_FOLDER as _START_FOLDER  # noqa: F401  read before the script goes elsewhere
from relight.version import __version__

if TYPE_CHECKING:
    from relight.tasks.config import TaskConfig, option
    from relight.training.script.start import init
    from relight.training.task import Data, Task

__all__ = ["Data", "RelightError", "Task", "TaskConfig", "TaskError", "__version__", "init", "option"]

_LAZY = {
    "Data": "relight.training.task",
    "Task": "relight.training.task",
    "TaskConfig": "relight.tasks.config",
    "init": "relight.training.script.start",
    "option": "relight.tasks.config",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'relight' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
