"""From a task reference to its class: built-in, or imported from a person's file as their own Python would do it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from relight.errors import TaskError
from relight.runs.records import TaskReference
from relight.tasks.catalog import find_builtin
from relight.tasks.parsing import nearest_name
from relight.training.task import Task


def import_task(reference: TaskReference) -> type[Task]:
    """Return the task's class. Raises `TaskError` with one sentence; a broken file's own error is its cause."""
    if reference.kind == "builtin":
        module_name, _, class_name = find_builtin(reference.name).implementation.partition(":")
        task: type[Task] = getattr(importlib.import_module(module_name), class_name)
        return task
    if reference.kind != "file" or reference.path is None or reference.class_name is None:
        raise TaskError(f"'{reference.name}' is not a task: name a built-in task, or FILE.py:Class.")
    return find_task_class(import_file(Path(reference.path)), reference.class_name)


def import_file(path: Path) -> ModuleType:
    """Import the Python file at `path` with its own folder first on `sys.path`, as `python FILE.py` has it."""
    if not path.is_file():
        raise TaskError(f"There is no task file {path}: give the path of a .py file that is there.")
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # Under its plain name, data-loading processes that are started afresh (macOS) find the module again.
    name = path.stem if path.stem not in sys.modules else f"relight_task_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise TaskError(f"{path} is not a Python file: its name must end with .py.")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules[name]
        place = f"{error.filename or path}, line {error.lineno}"
        raise TaskError(f"{path} does not compile: {error.msg} ({place}).") from error
    except Exception as error:
        del sys.modules[name]
        raise TaskError(f"{path} fails when it is imported: {_describe(error, path)}.") from error
    return module


def find_task_class(module: ModuleType, class_name: str) -> type[Task]:
    """Return the `Task` subclass that `module` has under `class_name`."""
    found = getattr(module, class_name, None)
    if isinstance(found, type) and issubclass(found, Task):
        return found
    tasks = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__
    ]
    where = module.__file__
    if found is not None:
        raise TaskError(f"'{class_name}' in {where} is not a task: it must be a subclass of relight.Task.")
    if not tasks:
        raise TaskError(f"{where} has no class '{class_name}', and no other subclass of relight.Task either.")
    near = nearest_name(class_name, tasks)
    hint = f"did you mean '{near}'?" if near else f"its tasks are {', '.join(tasks)}."
    raise TaskError(f"{where} has no class '{class_name}': {hint}")


def _describe(error: BaseException, path: Path) -> str:
    """Say what went wrong and at which line of the person's file: "ModuleNotFoundError: No module named 'x' (line 3)"."""
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1].rstrip(".")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{text} (line {lines[-1]})" if lines else text
