"""Describing and checking a task in a child process, which imports torch and your file so that this one need not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from relight.errors import ConfigError, DeviceError, RelightError, TaskError
from relight.runs.records import Objective, TaskReference
from relight.tasks.spare_process import start_describing, take_spare

IMPORT_WITHIN_S = 60.0  # your file alone
TORCH_WITHIN_S = 120.0  # torch before it: a few seconds, but many on a cold or busy machine
_ERRORS: dict[str, type[RelightError]] = {"config": ConfigError, "device": DeviceError}


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `relight.training.describe`: the config's JSON schema, and what `best` means.

    `config` is the complete, valid config if one was given. `misfit` says which parts of a checkpoint do not fit the
    model that the config makes: "" when all of them fit, None when that is unknown or was not asked.
    """

    schema: dict[str, Any]
    objective: Objective
    title: str
    summary: str
    config: dict[str, Any] | None = None
    misfit: str | None = None


def inspect_task(
    reference: TaskReference,
    *,
    config: Mapping[str, Any] | None = None,
    check: bool = False,
    fits: tuple[Path, int] | None = None,
    timeout_s: float = IMPORT_WITHIN_S,
) -> Inspection:
    """Import the task in a child process and describe it; validate `config` if given.

    `check` also checks that the config's device exists. `fits` is a checkpoint (the folder of its store, its sequence
    number) to compare with the config's model. `timeout_s` limits the import of your file. Raises `ConfigError`,
    `DeviceError`, or `TaskError` with the whole traceback of your code.
    """
    target = f"{reference.path}:{reference.class_name}" if reference.path else reference.name
    arguments = [target, "--timeout", str(timeout_s)]
    if reference.working_folder:
        arguments += ["--working-folder", reference.working_folder]
    if config is not None:
        arguments += ["--config", "-"]
    if check:
        arguments.append("--check")
    if fits is not None:
        arguments += ["--fits", str(fits[0]), str(fits[1])]
    given = b"" if config is None else json.dumps(dict(config)).encode()
    code, out, said = _ask(arguments, given, timeout_s=timeout_s + TORCH_WITHIN_S)
    return _read_answer(reference.name, code, out, said)


def _ask(arguments: list[str], given: bytes, *, timeout_s: float) -> tuple[int | None, bytes, str]:
    """Run the child, at most `timeout_s`, and end all processes it started. The exit code is None after a timeout."""
    spare = take_spare()
    if spare is not None:
        given = json.dumps(arguments).encode() + b"\n" + given
    with spare or start_describing(arguments) as child:
        try:
            out, error = child.communicate(given, timeout=timeout_s)
            code: int | None = child.returncode
        except subprocess.TimeoutExpired:
            _kill_group(child.pid)
            out, error = child.communicate()
            code = None
        except BaseException:  # Ctrl-C: the child has its own session and does not receive it
            _kill_group(child.pid)
            raise
    return code, out, error.decode(errors="backslashreplace")


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _read_answer(name: str, code: int | None, out: bytes, said: str) -> Inspection:
    lines = out.splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise TaskError(_explain_silence(name, code, said), traceback=said or None)
    if not answer.pop("ok", False):
        message = str(answer.get("error"))
        kind = _ERRORS.get(str(answer.get("kind")))
        raise kind(message) if kind else TaskError(message, traceback=answer.get("traceback"))
    return msgspec.convert(answer, Inspection)


def _explain_silence(name: str, code: int | None, said: str) -> str:
    if code is None or "Timeout (" in said:
        return (
            f"{name} did not finish importing: code at the top level of the file waits or computes. "
            "Move it into build_data() or build_model()."
        )
    if code < 0:
        return f"Importing {name} ended Python with {signal.Signals(-code).name}."
    return f"Importing {name} ended Python with exit code {code}."
