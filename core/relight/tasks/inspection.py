"""Asks a process of its own what a task is: the person's file and torch are imported there, never here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from relight.errors import ConfigError, DeviceError, RelightError, TaskError
from relight.runs.records import Objective, TaskReference

IMPORT_WITHIN_S = 60.0  # the person's file alone
TORCH_WITHIN_S = 120.0  # and torch before it: seconds, on a cold or busy machine many
_ERRORS: dict[str, type[RelightError]] = {"config": ConfigError, "device": DeviceError}


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What `relight.training.describe` answers: the config's JSON schema, and what `best` means.

    `config` is the complete, valid config where one was asked about. `misfit` says what of a checkpoint does not fit
    the model that the config makes: "" when all does, None when nobody asked or it cannot be told.
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
    """Import the task in a child process and say what it is; with `config`, validate that too.

    `check` looks whether the device that the config asks for is there; `fits` is a checkpoint (its store's folder, its
    sequence number) to compare the config's model with; `timeout_s` is what the person's file may take to import.
    Raises `ConfigError`, `DeviceError`, or `TaskError` with the whole traceback of the person's code.
    """
    target = f"{reference.path}:{reference.class_name}" if reference.path else reference.name
    command = [sys.executable, "-P", "-m", "relight.training.describe", target, "--timeout", str(timeout_s)]
    if reference.working_folder:
        command += ["--working-folder", reference.working_folder]
    if config is not None:
        command += ["--config", "-"]
    if check:
        command.append("--check")
    if fits is not None:
        command += ["--fits", str(fits[0]), str(fits[1])]
    given = b"" if config is None else json.dumps(dict(config)).encode()
    code, out, said = _ask(command, given, timeout_s=timeout_s + TORCH_WITHIN_S)
    return _read_answer(reference.name, code, out, said)


def _ask(command: list[str], given: bytes, *, timeout_s: float) -> tuple[int | None, bytes, str]:
    """Run the child to its end, at most `timeout_s`; whatever it started ends with it. The code is None on time-out."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as child:
        try:
            out, error = child.communicate(given, timeout=timeout_s)
            code: int | None = child.returncode
        except subprocess.TimeoutExpired:
            _kill_group(child.pid)
            out, error = child.communicate()
            code = None
        except BaseException:  # Ctrl-C: the child is in a session of its own and would not hear it
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
            f"{name} did not finish importing: something at the top level of the file waits or computes. "
            "Move it into build_data() or build_model()."
        )
    if code < 0:
        return f"{name} ended Python while it was imported: {signal.Signals(-code).name}."
    return f"{name} ended Python while it was imported, with exit code {code}."
