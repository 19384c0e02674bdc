"""Relight: training runs that cannot be lost.

Importing this package loads no torch; `Task` and `Data` are fetched when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from relight.errors import RelightError, TaskError
from relight.tasks.config import TaskConfig, option
from relight.version import __version__

if TYPE_CHECKING:
    from relight.training.task import Data, Task

__all__ = ["Data", "RelightError", "Task", "TaskConfig", "TaskError", "__version__", "option"]

_LAZY = {"Task": "relight.training.task", "Data": "relight.training.task"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'relight' has no attribute {name!r}")
