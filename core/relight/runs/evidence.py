"""Gathering what a run's status is derived from: the newest attempt's records, and whether its processes live."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from relight.errors import DamagedFile
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.lock import is_locked
from relight.runs.process_identity import boot_id, host_name, is_alive
from relight.runs.record_file import read_record_if_there
from relight.runs.records import (
    AttemptExit,
    AttemptProcesses,
    AttemptStart,
    ProcessIdentity,
    Record,
    RunRecord,
    TrainerOutcome,
)
from relight.runs.status import Evidence, StatusReport, derive_status
from relight.runs.stop_request import read_stop_request

R = TypeVar("R", bound=Record)


@dataclass
class DamageList:
    """The files that could not be read, by name, and the sentences that say so."""

    files: list[str]
    notes: list[str]

    def read(self, path: Path, kind: type[R]) -> R | None:
        """The record, or None when it is missing or damaged; damage is noted."""
        try:
            return read_record_if_there(path, kind)
        except DamagedFile as error:
            self.files.append(path.name)
            self.notes.append(str(error))
            return None


def gather_evidence(
    layout: RunLayout, record: RunRecord | None, *, now_s: float, damage: DamageList | None = None
) -> Evidence:
    """Everything about the newest attempt. Never raises for a damaged or missing file."""
    damage = damage if damage is not None else DamageList([], [])
    number = layout.latest_attempt()
    created_s = record.created_s if record is not None else 0.0
    if number == 0:
        imported = record is not None and record.imported_from is not None
        return Evidence(launched_s=created_s, locked=_locked_without_processes(layout, None), imported=imported)
    attempt = layout.attempt(number)
    start = damage.read(attempt.start, AttemptStart)
    processes = damage.read(attempt.processes, AttemptProcesses)
    supervisor = processes.supervisor if processes is not None else None
    # Who lives is asked before the records of the end are read: whoever was dead then had written all it ever will.
    supervisor_alive = is_alive(supervisor)
    trainer_alive = is_alive(processes.trainer) if processes is not None else False
    exit = damage.read(attempt.exit, AttemptExit)
    outcome = damage.read(attempt.outcome, TrainerOutcome) if exit is None else None
    foreign = supervisor is not None and _is_foreign(supervisor)
    return Evidence(
        launched_s=start.time_s if start is not None else _folder_time(attempt, created_s),
        attempt=number,
        start=start,
        processes=processes,
        exit=exit,
        outcome=outcome,
        stop=read_stop_request(layout, attempt=number) if exit is None else None,
        supervisor_alive=supervisor_alive,
        trainer_alive=trainer_alive,
        same_boot=supervisor is None or supervisor.boot_id == boot_id(),
        locked=exit is None and _locked_without_processes(layout, processes),
        foreign=foreign,
        silent_s=_silence(layout, attempt, now_s) if foreign and exit is None else 0.0,
        damaged=tuple(damage.files),
    )


def read_status(layout: RunLayout, record: RunRecord | None = None, *, now_s: float) -> StatusReport:
    """The run's status right now. Without its `record` a run that has no attempt yet counts as never started."""
    return derive_status(gather_evidence(layout, record, now_s=now_s), now_s=now_s)


def _locked_without_processes(layout: RunLayout, processes: AttemptProcesses | None) -> bool:
    """The lock says something only where no processes are known, so it is probed only there."""
    return processes is None and is_locked(layout)


def _is_foreign(identity: ProcessIdentity) -> bool:
    """Another boot under another name is another machine; under the same name it is this one, restarted."""
    return identity.boot_id != boot_id() and identity.host not in ("", host_name())


def _folder_time(attempt: AttemptLayout, otherwise: float) -> float:
    try:
        return os.stat(attempt.folder).st_mtime  # noqa: PTH116
    except OSError:
        return otherwise


def _silence(layout: RunLayout, attempt: AttemptLayout, now_s: float) -> float:
    """Seconds since the attempt's progress or any metric file changed."""
    changed = max(_change_times([attempt.progress, attempt.processes, *_children(layout.metrics)]), default=0.0)
    return now_s - changed


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _change_times(paths: Iterable[Path]) -> Iterable[float]:
    for path in paths:
        try:
            yield path.stat().st_mtime
        except OSError:
            continue
