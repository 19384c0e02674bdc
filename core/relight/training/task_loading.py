"""Loads the class of a task: imports the task's file by its path, or the module of a built-in task."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType, TracebackType

from relight.errors import ConfigError, TaskError
from relight.runs.records import TaskReference
from relight.tasks.built_in import find_builtin
from relight.tasks.config import TaskConfig
from relight.tasks.parsing import nearest_name
from relight.training.task import Task

_PARTS = ("build_model", "build_data", "step")


def load_task_class(reference: TaskReference) -> type[Task]:
    """Import the task that `reference` names and return its class.

    The file's own folder comes first on `sys.path`, as it does for a script, and the working folder of the launch last.
    Raises `TaskError` if the file is missing, cannot be imported (`traceback` then holds the complete traceback of the
    task's own code), or has no such class, or if the class is not a task.
    """
    if reference.kind == "builtin":
        return _load_builtin(reference.name)
    if reference.kind == "script" or reference.path is None or reference.class_name is None:
        raise TaskError(f"'{reference.name}' does not name a class: write FILE.py:Class.")
    path = Path(reference.path)
    if not path.is_file():
        raise TaskError(f"The task file {path} does not exist. Put it back, or launch a new run from its new place.")
    if reference.working_folder and reference.working_folder not in sys.path:
        sys.path.append(reference.working_folder)
    module = _import_file(path)
    return _pick_class(module, reference.class_name, path)


def _load_builtin(name: str) -> type[Task]:
    module_name, _, class_name = find_builtin(name).implementation.partition(":")
    task: type[Task] = getattr(importlib.import_module(module_name), class_name)
    return task


def _import_file(path: Path) -> ModuleType:
    """Import `path` under a name by which its classes can be found again. Raises `TaskError` if that fails."""
    folder = str(path.parent)
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    name = _choose_name(path)
    loaded = sys.modules.get(name)
    if loaded is not None and _is_file(getattr(loaded, "__file__", None), path):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TaskError(f"{path.name} is not a Python file: a task lives in a FILE.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, because dataclasses, pydantic and pickle look up their module by name
    try:
        if "." in name:
            importlib.import_module(name.rpartition(".")[0])
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        sys.modules.pop(name, None)
        raise
    except BaseException as error:  # a task's file can raise anything, SystemExit included
        sys.modules.pop(name, None)
        raise TaskError(_explain(error, path), traceback=_format(error)) from error
    return module


def _choose_name(path: Path) -> str:
    """Return the name that `import` would give the module, so that other processes can import it too.

    A file inside a package gets its dotted name, so that its relative imports work. If the name belongs to another
    module, the name is one of our own.
    """
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    if len(parts) > 1 and all(part.isidentifier() for part in parts) and parts[0] not in sys.stdlib_module_names:
        top = sys.modules.get(parts[0])
        if top is None or _is_file(getattr(top, "__file__", None), folder / parts[0] / "__init__.py"):
            if str(folder) not in sys.path:
                sys.path.insert(1, str(folder))
            return ".".join(parts)
    stem = path.stem
    loaded = sys.modules.get(stem)
    free = loaded is None or _is_file(getattr(loaded, "__file__", None), path)
    package = (path.parent / stem / "__init__.py").is_file()  # `import` prefers a package to a file
    if stem.isidentifier() and stem not in sys.stdlib_module_names and free and not package:
        return stem
    return "relight_task_" + re.sub(r"\W", "_", stem)


def _is_file(name: str | None, path: Path) -> bool:
    return name is not None and Path(name).exists() and path.exists() and Path(name).samefile(path)


def _pick_class(module: ModuleType, name: str, path: Path) -> type[Task]:
    """Return the class `name` of `module`. Raises `TaskError` if it is not a complete task."""
    tasks = [key for key, value in vars(module).items() if _is_own_task(value, module)]
    offer = f" It defines the task{'s' if len(tasks) > 1 else ''} {', '.join(tasks)}." if tasks else ""
    if not hasattr(module, name):
        near = nearest_name(name, tasks or [key for key, value in vars(module).items() if inspect.isclass(value)])
        hint = f" Did you mean '{near}'?" if near else ""
        raise TaskError(f"{path} has no class '{name}'.{hint or offer or ' It defines no relight.Task.'}")
    task = getattr(module, name)
    if not inspect.isclass(task):
        raise TaskError(f"'{name}' in {path} is a {type(task).__name__}, not a class.{offer}")
    if not issubclass(task, Task) or task is Task:
        raise TaskError(f"'{name}' in {path} is not a task. A task is a subclass of relight.Task.{offer}")
    missing = [part for part in _PARTS if getattr(task, part) is getattr(Task, part)]
    if missing:
        raise TaskError(
            f"'{name}' in {path} is not complete. It must also define {' and '.join(f'{m}()' for m in missing)}."
        )
    config_class = task.Config
    if not inspect.isclass(config_class) or not issubclass(config_class, TaskConfig):
        raise TaskError(f"'{name}.Config' in {path} must be a subclass of relight.TaskConfig.")
    if not isinstance(task.best_metric, str) or not task.best_metric:
        raise TaskError(f"'{name}.best_metric' in {path} must name one of the metrics that step() returns.")
    return task


def _is_own_task(value: object, module: ModuleType) -> bool:
    return inspect.isclass(value) and issubclass(value, Task) and value.__module__ == module.__name__


def _explain(error: BaseException, path: Path) -> str:
    """Return one sentence that says why and where the import of a file failed."""
    if isinstance(error, SyntaxError):
        where = Path(error.filename).name if error.filename else path.name
        return f"{where} has a syntax error in line {error.lineno}: {error.msg}. Correct it and launch again."
    if isinstance(error, SystemExit):
        return (
            f"{path.name} ends Python when it is imported (exit code {error.code}). "
            "Move that code under `if __name__ == '__main__':`."
        )
    line = _last_line_in(error.__traceback__, path)
    where = f"{path.name}, line {line}" if line else path.name
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"{where} imports '{error.name}', which is not installed. Install it for {sys.executable}, "
            f"or put it into {path.parent}."
        )
    message = str(error).strip().split("\n", 1)[0]
    if isinstance(error, ConfigError):
        return f"{where}: {message}"
    return (
        f"{path.name} cannot be imported: {type(error).__name__}"
        + (f" in line {line}" if line else "")
        + (f": {message}" if message else "")
        + "."
    )


def _last_line_in(frames: TracebackType | None, path: Path) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(frames) if _is_file(frame.filename, path)]
    return lines[-1] if lines else None


def _format(error: BaseException) -> str:
    """Format the complete traceback, starting with the first frame of the task's own code."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def _is_ours(filename: str) -> bool:
    return filename == __file__ or filename.startswith("<frozen importlib") or "importlib" in Path(filename).parts
