"""From the name of a task to a task that can be launched: it exists, its config is valid, its device is available.

Nothing here creates a run, so problems show before a run exists.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from relight.errors import TaskError, UsageError
from relight.runs.records import Objective, PreparedTask, TaskReference
from relight.tasks.built_in import BUILTIN_TASKS, BuiltinTask, find_builtin
from relight.tasks.fields import ConfigField, describe_config, describe_schema
from relight.tasks.inspection import inspect_task
from relight.tasks.parsing import nearest_name, parse_config, split_assignments
from relight.tasks.script_inspection import DefinesTasks, check_script_file, find_python, probe_python

_NEEDS_NO_TORCH = ("auto", "cpu")


@dataclass(frozen=True)
class TaskDescription:
    """A task as a launch form shows it. `resolve_task` accepts its `name`."""

    name: str
    title: str
    summary: str
    fields: tuple[ConfigField, ...]
    objective: Objective


def resolve_task(text: str, *, working_folder: Path | None = None) -> TaskReference:
    """Find the task named by `text`: a built-in name, FILE.py:Class, or a training script, FILE.py.

    Relative paths start at `working_folder` (else at the current folder). The file is read but not imported. Raises
    `UsageError` when there is no such task or file, and `TaskError` when a script cannot be launched.
    """
    text = text.strip()
    if text in BUILTIN_TASKS:
        return TaskReference(kind="builtin", name=text)
    file, separator, class_name = text.rpartition(":")
    if not separator or "/" in class_name or class_name.endswith(".py"):
        file, class_name = text, ""
    folder = Path.cwd() if working_folder is None else working_folder
    path = Path(folder, Path(file).expanduser())
    if not file.endswith(".py") and not path.is_file():
        if "/" in file:
            raise _unknown_file(text, path)
        raise _forgotten_m(text) if _find_module(text, folder) else _unknown_task(text)
    if not path.is_file():
        raise _unknown_file(text, path)
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a Python file. A task is a class in a Python file: write FILE.py:Class.")
    path = path.absolute()
    if not class_name and not separator:
        try:
            return _refer_to_script(path, folder)
        except DefinesTasks:
            pass
    if not class_name.isidentifier():
        raise UsageError(_ask_for_class(text, path, class_name))
    return TaskReference(
        kind="file", name=f"{path.name}:{class_name}", path=str(path), class_name=class_name,
        working_folder=str(folder.absolute()), code_digest=_digest(path),
    )  # fmt: skip


def resolve_module(name: str) -> TaskReference:
    """Find the training script that `python -m NAME` would run in the current folder. It is read but not imported.

    Raises `UsageError` when there is no such module, and `TaskError` when it cannot be launched.
    """
    name, folder = name.strip(), Path.cwd()
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise UsageError(f"-m takes the name of a module, such as package.train, and not '{name}'.")
    path = _find_module(name, folder)
    if path is None:
        raise UsageError(f"There is no module {name} in {folder}. Start Relight in the folder that holds {parts[0]}.")
    try:
        check_script_file(path, root=folder)
    except DefinesTasks as error:
        raise UsageError(f"{error} Launch it without -m: {path.relative_to(folder)}:Class.") from None
    return TaskReference(
        kind="script", name=name, path=str(path), working_folder=str(folder), code_digest=_digest(path), module=name
    )


def launch_script(
    reference: TaskReference, *, arguments: Sequence[str] = (), python: Path | None = None
) -> TaskReference:
    """Return the script `reference` with arguments and, if `python` is given, with another interpreter.

    Raises `UsageError` or `TaskError` when that interpreter cannot run the script.
    """
    assert reference.path is not None
    interpreter = find_python(python)
    if interpreter is not None:
        probe_python(interpreter, Path(reference.path))
    return msgspec.structs.replace(reference, arguments=tuple(arguments), python=interpreter)


def validate_config(reference: TaskReference, assignments: Iterable[str] | Mapping[str, Any] = ()) -> PreparedTask:
    """Build the complete config of a task from "KEY=VALUE" strings or a mapping, and check that it can be trained.

    For a built-in task this loads torch only when the config asks for an accelerator. Raises `ConfigError` (an unknown
    key, a value out of bounds), `TaskError` (the file does not import, data is missing) or `DeviceError`.
    """
    given = dict(assignments) if isinstance(assignments, Mapping) else split_assignments(assignments)
    if reference.kind == "script":
        return PreparedTask(reference, given)
    if reference.kind != "builtin":
        answer = inspect_task(reference, config=given, check=True)
        return PreparedTask(reference, answer.config or {}, answer.objective)
    task = find_builtin(reference.name)
    config = parse_config(task.config_class, given)
    task.check(config)
    written = config.model_dump(mode="json")
    if config.device not in _NEEDS_NO_TORCH or config.precision == "fp16":
        inspect_task(reference, config=written, check=True)
    return PreparedTask(reference, written, task.objective)


def describe_task(reference: TaskReference) -> TaskDescription:
    """Describe a task and its config. A child process imports your file for that."""
    if reference.kind == "builtin":
        return _describe_builtin(find_builtin(reference.name))
    if reference.kind == "script":
        raise UsageError(
            f"{reference.name} is a training script. Its options are its own arguments: write them after -- when you "
            "launch it."
        )
    answer = inspect_task(reference)
    return TaskDescription(
        name=f"{reference.path}:{reference.class_name}", title=answer.title, summary=answer.summary,
        fields=tuple(describe_schema(answer.schema)), objective=answer.objective,
    )  # fmt: skip


def list_tasks() -> list[TaskDescription]:
    """Describe the built-in tasks, in the order of the launch form."""
    return [_describe_builtin(task) for task in BUILTIN_TASKS.values()]


def _refer_to_script(path: Path, folder: Path) -> TaskReference:
    check_script_file(path)
    return TaskReference(
        kind="script", name=path.name, path=str(path), working_folder=str(folder.absolute()), code_digest=_digest(path)
    )


def _digest(path: Path) -> str:
    try:
        return xxhash.xxh3_128_hexdigest(path.read_bytes())
    except OSError as error:
        raise TaskError(f"The task file {path} cannot be read: {error.strerror}.") from error


def _describe_builtin(task: BuiltinTask) -> TaskDescription:
    return TaskDescription(
        name=task.name, title=task.title, summary=task.summary, fields=tuple(describe_config(task.config_class)),
        objective=task.objective,
    )  # fmt: skip


def _find_module(name: str, folder: Path) -> Path | None:
    """Return the file that `python -m NAME` would run in `folder`; None if there is none."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    stem = folder.joinpath(*parts)
    return next((each for each in (stem.with_suffix(".py"), stem / "__main__.py") if each.is_file()), None)


def _forgotten_m(text: str) -> UsageError:
    return UsageError(f"{text} is a module. To launch a training script as one, write: relight run -m {text}")


def _unknown_task(text: str) -> UsageError:
    try:
        find_builtin(text)
    except UsageError as error:
        return error
    raise AssertionError(text)


def _unknown_file(text: str, path: Path) -> UsageError:
    try:
        files = [file.name for file in path.parent.iterdir() if file.suffix == ".py"]
    except OSError:
        return UsageError(f"Unknown task '{text}': there is no folder {path.parent}.")
    near = nearest_name(path.name, files)
    return UsageError(f"Unknown task '{text}': there is no file {path}." + (f" Did you mean '{near}'?" if near else ""))


def _ask_for_class(text: str, path: Path, class_name: str) -> str:
    """Say that the name of a class is missing, and which classes the file defines, without importing it."""
    wrong = f"'{class_name}' is not a class name" if class_name else f"'{text}' does not name a class"
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        body = []
    classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
    offer = f"; the file has {', '.join(classes)}" if classes else ""
    return f"{wrong}: write {path.name}:{classes[0] if len(classes) == 1 else 'CLASS'}{offer}."
