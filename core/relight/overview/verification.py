"""Reads every file of a run folder and reports the damaged ones. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from relight.checkpoints.recovery import verify_store
from relight.checkpoints.store import CheckpointStore
from relight.errors import DamagedFile
from relight.overview.file_checks import check_files
from relight.runs.about import About
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import (
    AttemptExit,
    AttemptProcesses,
    AttemptStart,
    Home,
    MirrorState,
    MirrorTarget,
    ProcessIdentity,
    Record,
    ResumeCheck,
    RunRecord,
    SavingState,
    ScriptRecord,
    StopRequest,
    TrainerOutcome,
)

OnProgress = Callable[[int, int], None]


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """A damaged file, and one sentence that says how."""

    path: str
    reason: str


class RunCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The result of reading a whole run folder. `bytes` counts the checkpoints' tensors."""

    run: str
    checkpoints: int
    bytes: int
    files: int
    """Other files that were read: records, metric files, labels, exports."""
    damaged: list[Damage]


def check_run(layout: RunLayout, *, on_progress: OnProgress | None = None) -> RunCheck:
    """Read every file of a run that Relight uses; a missing run.json counts as damage."""
    files, damaged = 0, []
    try:
        numbers = layout.list_attempts()
    except DamagedFile as error:
        numbers = []
        damaged.append(Damage(path=str(layout.attempts), reason=str(error)))
    for path, kind in _list_records(layout, numbers):
        if not os.path.lexists(path) and path != layout.record:
            continue
        files += 1
        reason = _find_damage(path, kind)
        if reason is not None:
            damaged.append(Damage(path=str(path), reason=reason))
    for path, problem in check_files(layout, numbers):
        files += 1
        if problem is not None:
            damaged.append(Damage(path=str(path), reason=problem))
    report = verify_store(CheckpointStore(layout.checkpoints), on_progress=on_progress)
    damaged += [Damage(path=str(entry.path), reason=entry.reason) for entry in report.damaged]
    return RunCheck(run=layout.run_id, checkpoints=report.checked, bytes=report.bytes, files=files, damaged=damaged)


def _list_records(layout: RunLayout, attempts: list[int]) -> list[tuple[Path, type[Record]]]:
    records: list[tuple[Path, type[Record]]] = [
        (layout.record, RunRecord),
        (layout.about, About),
        (layout.stop_request, StopRequest),
        (layout.trust, Home),
        (layout.mirror, MirrorTarget),
        (layout.mirror_state, MirrorState),
    ]
    for number in attempts:
        attempt = layout.attempt(number)
        records += [
            (attempt.start, AttemptStart),
            (attempt.processes, AttemptProcesses),
            (attempt.script, ScriptRecord),
            (attempt.writer, ProcessIdentity),
            (attempt.saving, SavingState),
            (attempt.resume_check, ResumeCheck),
            (attempt.outcome, TrainerOutcome),
            (attempt.exit, AttemptExit),
        ]
    return records


def _find_damage(path: Path, kind: type[Record]) -> str | None:
    try:
        read_record(path, kind)
    except FileNotFoundError:
        return "It is missing."
    except DamagedFile as error:
        return str(error)
    return None
