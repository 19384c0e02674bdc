"""Importing weights from other programs into a new run or a safetensors file. A child process reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from relight.errors import RelightError, TaskError
from relight.runs.catalog import create_run
from relight.runs.layout import RunLayout
from relight.runs.records import ImportedFrom, PreparedTask

_READER = (sys.executable, "-P", "-m", "relight.training.weights.weight_import")
"""Command of the process that reads the weights. It loads torch; this one does not."""


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was imported, and from where. `notes` are messages for the user."""

    imported_from: ImportedFrom
    tensors: int
    parameters: int
    """Number of values in the model's parameters; for a converted file, in all tensors."""
    notes: tuple[str, ...] = ()
    digest: str | None = None
    """State digest of the run's first checkpoint; None for a converted file."""
    sha256: str | None = None
    """Digest of the converted file."""
    bytes: int | None = None


class ImportedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A new run whose first checkpoint, at step 0, holds the imported weights."""

    layout: RunLayout
    report: ImportReport


def import_run(
    folder: Path,
    source: Path,
    prepared: PreparedTask,
    *,
    name: str | None = None,
    part: str | None = None,
) -> ImportedRun:
    """Create a run with the weights in `source`, a file or a Hugging Face folder, without starting it.

    The run appears when its first checkpoint is durable and verified, or not at all. A resume starts from that
    checkpoint: at step 0, with a fresh optimizer. No code from `source` is run. Raises `RelightError` when the weights
    are damaged, would run code when loaded, or do not fit the task's model.
    """
    reports: list[ImportReport] = []

    def fill(building: RunLayout) -> ImportedFrom:
        order = {"checkpoints": str(building.checkpoints), "prepared": prepared}
        reports.append(_ask(source, part, order, working_folder=prepared.reference.working_folder))
        return reports[0].imported_from

    layout, _ = create_run(folder, prepared, name=name, fill=fill)
    return ImportedRun(layout=layout, report=reports[0])


def convert_weights(source: Path, out: Path, *, part: str | None = None) -> ImportReport:
    """Write the weights in `source` to the safetensors file `out`, read it back and compare; or leave no file."""
    return _ask(source, part, {"out": str(out.absolute())})


def _ask(
    source: Path,
    part: str | None,
    order: dict[str, Any],
    *,
    working_folder: str | None = None,
) -> ImportReport:
    """Let a child process with torch do `order`; its last line of output is the answer."""
    whole = {"source": str(source.expanduser().absolute()), "part": part, **order}
    folder = working_folder if working_folder and Path(working_folder).is_dir() else None
    with subprocess.Popen(
        _READER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
    ) as child:
        try:
            said, complaints = child.communicate(msgspec.json.encode(whole))
        except BaseException:  # Ctrl-C: the caller removes the unfinished run
            child.kill()
            raise
    lines = said.splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _explain_silence(source, child.returncode, complaints)
    if not answer.pop("ok", False):
        if answer.get("traceback"):
            raise TaskError(str(answer.get("error")), traceback=str(answer["traceback"]))
        raise RelightError(str(answer.get("error")))
    return msgspec.convert(answer, ImportReport)


def _explain_silence(source: Path, code: int, complaints: bytes) -> RelightError:
    said = complaints.decode(errors="backslashreplace").strip()
    if code == -9:
        return RelightError(
            f"{source.name} was not imported: the importing process was killed, probably because memory ran out."
        )
    return TaskError(
        f"{source.name} was not imported: the importing process ended with exit code {code}.", traceback=said or None
    )
