"""What the folder of a run and its processes say at one moment: gathered once, then passed on."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from relight.errors import DamagedFile
from relight.runs.about import About
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.lock import is_locked
from relight.runs.process_identity import boot_id, host_name, is_alive
from relight.runs.progress import Progress, read_progress
from relight.runs.record_file import read_record_if_there, read_record_or_none
from relight.runs.records import (
    AttemptExit,
    AttemptProcesses,
    AttemptStart,
    ProcessIdentity,
    Record,
    RunRecord,
    SavingState,
    SlurmJob,
    StopRequest,
    TrainerOutcome,
)
from relight.runs.run_record import read_definition
from relight.runs.stop_request import read_stop_request
from relight.slurm.job import JobReport, find_job

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class PastAttempt:
    """How one attempt began and ended. `exit` is None when its end was never recorded or the record is damaged."""

    start: AttemptStart
    exit: AttemptExit | None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A run as of `now_s`: its record, the records of its newest attempt, and whether its processes live.

    A missing record is None. A damaged one is None too, and `damage` says what is wrong with it.
    """

    layout: RunLayout
    now_s: float
    launched_s: float
    """When the newest attempt was asked for; without an attempt, when the run was created."""
    attempts: tuple[int, ...] = ()
    """Numbers of all attempts, oldest first."""
    record: RunRecord | None = None
    about: About = field(default_factory=About)
    start: AttemptStart | None = None
    processes: AttemptProcesses | None = None
    writer: ProcessIdentity | None = None
    exit: AttemptExit | None = None
    outcome: TrainerOutcome | None = None
    """Read only where there is no exit record."""
    stop: StopRequest | None = None
    """Only a request that means the newest attempt, and only while that has no exit record."""
    progress: Progress | None = None
    saving: SavingState | None = None
    supervisor_alive: bool = False
    trainer_alive: bool = False
    writer_alive: bool = False
    same_boot: bool = True
    locked: bool = False
    """Probed only where no processes are on record."""
    foreign: bool = False
    """Another machine runs the attempt, so its processes cannot be checked from here."""
    changed_s: float = 0.0
    """For a foreign run: when one of its files last changed."""
    job: JobReport | None = None
    """The newest job of a run that Slurm starts; None also for one that a person stopped or that has finished."""
    damage: dict[str, str] = field(default_factory=dict)
    """A sentence for each damaged file, by file name."""

    @property
    def attempt(self) -> int:
        """Number of the newest attempt; 0 when there is none."""
        return self.attempts[-1] if self.attempts else 0

    def require_record(self) -> RunRecord:
        """Return the run's record; `DamagedFile` when it is damaged or missing."""
        if self.record is None:
            raise DamagedFile(self.damage[self.layout.record.name])
        return self.record

    @property
    def supervisor_pid(self) -> int | None:
        """Pid of the newest attempt's supervisor; None unless it is alive."""
        return self.processes.supervisor.pid if self.processes is not None and self.supervisor_alive else None

    @property
    def trainer_pid(self) -> int | None:
        """Pid of the newest attempt's trainer; None unless it is alive."""
        trainer = self.processes.trainer if self.processes is not None else None
        return trainer.pid if trainer is not None and self.trainer_alive else None

    @property
    def writer_pid(self) -> int | None:
        """Pid of the checkpoint writer; None unless it is alive. It outlives the trainer to finish a checkpoint."""
        return self.writer.pid if self.writer is not None and self.writer_alive else None

    @functools.cached_property
    def history(self) -> tuple[PastAttempt, ...]:
        """All attempts, oldest first. The earlier ones are read on first use.

        An unreadable start record counts as a start by a person.
        """
        earlier = [_read_past_attempt(self.layout.attempt(number)) for number in self.attempts[:-1]]
        newest = [PastAttempt(self.start or _unknown_start(number), self.exit) for number in self.attempts[-1:]]
        return (*earlier, *newest)

    def find_token(self, token: str | None) -> int | None:
        """Return the number of the newest attempt that was started with `token`; None when there is none."""
        if token is None:
            return None
        for number, past in zip(reversed(self.attempts), reversed(self.history), strict=True):
            if past.start.token == token:
                return number
        return None


def gather_evidence(layout: RunLayout) -> Evidence:
    """Read the run's record and those of its newest attempt, each once. Never raises for a damaged or missing file."""
    now_s = time.time()
    damage: dict[str, str] = {}
    record, about = _read_record_of_run(layout, damage)
    attempts = tuple(layout.list_attempts())
    if not attempts:
        return Evidence(
            layout=layout,
            now_s=now_s,
            launched_s=record.created_s if record is not None else 0.0,
            record=record,
            about=about,
            locked=is_locked(layout),
            damage=damage,
        )
    attempt = layout.attempt(attempts[-1])
    start = _read(attempt.start, AttemptStart, damage)
    processes = _read(attempt.processes, AttemptProcesses, damage)
    writer = _read(attempt.writer, ProcessIdentity, damage)
    # Ask who is alive before reading how the attempt ended: a process that was dead by then has written everything it
    # ever will, so no end can fall between the two.
    supervisor_alive = processes is not None and is_alive(processes.supervisor)
    trainer_alive = processes is not None and is_alive(processes.trainer)
    writer_alive = is_alive(writer)
    exit = _read(attempt.exit, AttemptExit, damage)
    foreign = processes is not None and _is_foreign(processes.supervisor)
    return Evidence(
        layout=layout,
        now_s=now_s,
        launched_s=start.time_s if start is not None else _launch_time(attempt, record),
        attempts=attempts,
        record=record,
        about=about,
        start=start,
        processes=processes,
        writer=writer,
        exit=exit,
        outcome=_read(attempt.outcome, TrainerOutcome, damage) if exit is None else None,
        stop=read_stop_request(layout, attempt=attempt.number) if exit is None else None,
        progress=read_progress(attempt.progress),
        saving=_read(attempt.saving, SavingState, damage),
        supervisor_alive=supervisor_alive,
        trainer_alive=trainer_alive,
        writer_alive=writer_alive,
        same_boot=processes is None or processes.supervisor.boot_id == boot_id(),
        locked=exit is None and processes is None and is_locked(layout),
        foreign=foreign,
        changed_s=_find_last_change(layout, attempt) if foreign and exit is None else 0.0,
        job=read_job(layout) if exit is None or _may_start_again(exit) else None,
        damage=damage,
    )


def read_job(layout: RunLayout, *, fresh: bool = False) -> JobReport | None:
    """Return what Slurm says about the newest job of the run; None if Slurm does not start it. Never raises."""
    try:
        owner = os.stat(layout.slurm).st_uid  # noqa: PTH116  asked for each run of a list
    except OSError:
        return None
    record = read_record_or_none(layout.slurm, SlurmJob)
    if record is None or not record.job:
        return None
    report = find_job(record.job, owner=owner, fresh=fresh)
    # The job of a copied folder is that of the original.
    return report if not report.folder or Path(report.folder).resolve() == layout.folder.resolve() else None


def _may_start_again(exit: AttemptExit) -> bool:
    return exit.outcome == "crashed" or (exit.outcome == "stopped" and exit.stop_signal is not None)


def _read_record_of_run(layout: RunLayout, damage: dict[str, str]) -> tuple[RunRecord | None, About]:
    try:
        definition = read_definition(layout)
    except DamagedFile as error:
        damage[layout.record.name] = str(error)
        return None, About()
    if definition.known_about.damage is not None:
        damage[layout.about.name] = definition.known_about.damage
    return definition.record, definition.known_about.about


def _read(path: Path, kind: type[R], damage: dict[str, str]) -> R | None:
    try:
        return read_record_if_there(path, kind)
    except DamagedFile as error:
        damage[path.name] = str(error)
        return None


def _read_past_attempt(attempt: AttemptLayout) -> PastAttempt:
    start = read_record_or_none(attempt.start, AttemptStart)
    return PastAttempt(start or _unknown_start(attempt.number), read_record_or_none(attempt.exit, AttemptExit))


def _unknown_start(number: int) -> AttemptStart:
    return AttemptStart(attempt=number, time_s=0.0, reason="launch")


def _is_foreign(identity: ProcessIdentity) -> bool:
    """Another boot under another host name is another machine; under the same name it is this one, restarted."""
    return identity.boot_id != boot_id() and identity.host not in ("", host_name())


def _launch_time(attempt: AttemptLayout, record: RunRecord | None) -> float:
    """Return when the attempt's folder last changed: the launch time of an attempt without a start record."""
    try:
        return os.stat(attempt.folder).st_mtime  # noqa: PTH116
    except OSError:
        return record.created_s if record is not None else 0.0


def _find_last_change(layout: RunLayout, attempt: AttemptLayout) -> float:
    """Return when the attempt's progress or any metric file last changed."""
    return max(_change_times([attempt.progress, attempt.processes, *_children(layout.metrics)]), default=0.0)


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
