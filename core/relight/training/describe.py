"""`python -m relight.training.describe TASK`: imports a task in this process and describes it in one line of JSON.

    python -m relight.training.describe FILE.py:Class [--config JSON] [--check] [--fits STORE SEQUENCE]
                                        [--working-folder DIR] [--timeout S]

TASK may also be the name of a built-in task. `--config -` reads the JSON from stdin. With `--config`, the answer
contains the complete, valid config. `--check` also checks that the config's device is available, and `--fits` that the
checkpoint fits the config's model: "misfit" then says what does not fit, "" if everything does, null if that is
unknown. The answer is one of

    {"ok": true, "schema": …, "objective": {"metric": …, "higher_is_better": …, "guessed": …}, "title": …, …}
    {"ok": false, "kind": "task" | "config" | "device", "error": SENTENCE, "traceback": WHOLE or null}

and is the last line on stdout. What the task itself prints goes to stderr.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import inspect
import json
import os
import re
import select
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from relight.errors import ConfigError, DeviceError, RelightError, TaskError
from relight.runs.records import TaskReference
from relight.tasks.built_in import BUILTIN_TASKS
from relight.tasks.parsing import parse_config
from relight.tasks.spare_process import WAIT, WAITS_S
from relight.training.device import choose_device
from relight.training.precision import Precision
from relight.training.task import Task
from relight.training.task_loading import load_task_class
from relight.training.weights.model_fit import find_misfit


def main(arguments: list[str]) -> int:
    """Answer on stdout; exit with 0 if the task can be used, else with 1."""
    if arguments == [WAIT]:
        line = sys.stdin.readline() if select.select([sys.stdin], [], [], WAITS_S)[0] else ""
        if not line:  # the process that started this one has ended, or needs it no longer
            return 0
        importlib.invalidate_caches()
        arguments = json.loads(line)
    options = _read_arguments(arguments)
    given = sys.stdin.read() if options.config == "-" else options.config
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(2, 1)  # what the task's file prints must not mix with the answer
        if options.timeout:
            faulthandler.dump_traceback_later(options.timeout, exit=True)
        result = _describe(options, None if given is None else json.loads(given))
        answer.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if result["ok"] else 1)  # without waiting for threads that the task's file started


def describe_class(task: type[Task], *, builtin: str | None = None) -> dict[str, Any]:
    """Return what the answer says about a task's class."""
    title = BUILTIN_TASKS[builtin].title if builtin else _split_words(task.__name__)
    summary = BUILTIN_TASKS[builtin].summary if builtin else (task.__dict__.get("__doc__") or "")
    return {
        "schema": task.Config.model_json_schema(),
        "objective": msgspec.to_builtins(task.objective()),
        "title": title,
        "summary": inspect.cleandoc(summary).split("\n\n", 1)[0].replace("\n", " "),
    }


def _describe(options: argparse.Namespace, given: dict[str, Any] | None) -> dict[str, Any]:
    try:
        reference = _refer(options)
        task = load_task_class(reference)
        answer = describe_class(task, builtin=reference.name if reference.kind == "builtin" else None)
        if given is not None:
            config = parse_config(task.Config, given)
            if options.check:
                Precision(config.precision, device=choose_device(config.device))
            answer["config"] = config.model_dump(mode="json")
            if options.fits:
                folder, sequence = options.fits
                answer["misfit"] = find_misfit(task(config), Path(folder), int(sequence))
        return {"ok": True, **answer}
    except RelightError as error:
        kind = "config" if isinstance(error, ConfigError) else "device" if isinstance(error, DeviceError) else "task"
        whole = error.traceback if isinstance(error, TaskError) else None
        return {"ok": False, "kind": kind, "error": str(error), "traceback": whole}
    except Exception as error:  # validators and schemas of the task's file run here too
        sentence = f"{options.task} cannot be described: {type(error).__name__}: {error}"
        return {"ok": False, "kind": "task", "error": sentence, "traceback": traceback.format_exc()}


def _refer(options: argparse.Namespace) -> TaskReference:
    if options.task in BUILTIN_TASKS:
        return TaskReference(kind="builtin", name=options.task)
    file, _, class_name = options.task.rpartition(":")
    path = Path(file).absolute()
    return TaskReference(
        kind="file", name=f"{path.name}:{class_name}", path=str(path), class_name=class_name,
        working_folder=options.working_folder,
    )  # fmt: skip


def _split_words(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").strip()


def _read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m relight.training.describe", description="Describe a task as JSON.")
    parser.add_argument("task", help="FILE.py:Class, or the name of a built-in task")
    parser.add_argument("--config", help="a config to validate, as JSON; - reads it from stdin")
    parser.add_argument("--check", action="store_true", help="check that the config's device is available")
    parser.add_argument("--fits", nargs=2, metavar=("STORE", "SEQUENCE"), help="a checkpoint to compare the model with")
    parser.add_argument("--working-folder", help="a further folder to import from, after all others")
    parser.add_argument("--timeout", type=float, default=0.0, help="seconds that the file may take; 0 means no limit")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
