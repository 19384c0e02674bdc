"""A run for a script that you started yourself with `python` or torchrun, and a supervisor that watches its process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from relight.errors import RelightError, RunBusy, UsageError
from relight.mirror.address import check_place, choose_mirror
from relight.mirror.report import set_mirror
from relight.runs.catalog import create_run, find_run, list_layouts, runs_folder
from relight.runs.evidence import Evidence, gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.record_file import read_record_or_none
from relight.runs.records import (
    AttemptStart,
    PreparedTask,
    ProcessIdentity,
    TaskReference,
    name_nproc,
)
from relight.runs.status import FOREIGN_SILENCE_S
from relight.runs.stop_request import read_stop_request
from relight.start_folder import START_FOLDER
from relight.supervision.attempt_start import Adoption, start_attempt
from relight.supervision.checkpoint_choice import choose_newest
from relight.supervision.resume import lock_when_free, refuse_resume
from relight.wording import count

ROUND_WAIT_S = 180.0
"""How long a round of torchrun waits for the former one: a file server may keep the lock of a lost machine."""
SILENCE_WAIT_S = FOREIGN_SILENCE_S + 5.0
_POLL_S = 0.2


class RunIsOver(RelightError):
    """torchrun has started its ranks again, but their run has finished, or was stopped by request."""


@dataclass(frozen=True)
class Torchrun:
    """The torchrun that started this process: the number of its ranks, and its own process on each machine."""

    nproc: int = 1
    agents: tuple[ProcessIdentity, ...] = ()


@dataclass(frozen=True)
class Standalone:
    """The run of this process. `lifeline` is the reading end of a pipe that closes when the supervisor dies."""

    layout: RunLayout
    attempt: int
    lock: RunLock
    lifeline: int


def begin_standalone(
    script: Path,
    *,
    arguments: Sequence[str],
    module: str | None = None,
    name: str | None = None,
    runs: Path | str | None = None,
    resume: str | None = None,
    torchrun: Torchrun = Torchrun(),
) -> Standalone:
    """Create a run for this process, or continue one, and start a supervisor that watches it.

    The run that this very `torchrun` trained before is continued, from its newest undamaged checkpoint; otherwise the
    run `resume`, by id, name or prefix; otherwise a run is created. `relight resume` starts the same script with the
    same arguments, folder and interpreter. RELIGHT_MIRROR says where to copy a new run. The supervisor watches rank 0.

    Raises `RunIsOver`, `RunNotFound`, `RunBusy`, and `RelightError` when the runs folder cannot be written or no
    supervisor can be started.
    """
    script = Path(START_FOLDER or "", script)
    folder = runs_folder(runs, start=START_FOLDER)
    layout = _find_former(folder, torchrun.agents)
    if layout is not None:
        lock, start = _take_over(layout, torchrun, restarted=True)
    elif resume:
        layout = find_run(folder, resume)
        _check_script(layout, script)
        lock, start = _take_over(layout, torchrun, restarted=False)
    else:
        layout = _create(folder, script, arguments=arguments, module=module, name=name)
        lock, start = RunLock.acquire(layout), AttemptStart(attempt=1, time_s=time.time(), reason="launch")
    start = msgspec.structs.replace(start, nproc=name_nproc(torchrun.nproc), agents=torchrun.agents or msgspec.UNSET)
    reading, writing = os.pipe()
    try:
        start_attempt(layout, start, lock=lock, adoption=Adoption(pid=os.getpid(), lifeline=writing))
    except BaseException:
        os.close(reading)
        lock.release()
        raise
    finally:
        os.close(writing)
    return Standalone(layout, start.attempt, lock, reading)


def _create(folder: Path, script: Path, *, arguments: Sequence[str], module: str | None, name: str | None) -> RunLayout:
    mirror = choose_mirror(None)
    if mirror is not None:
        check_place(mirror, folder)
    layout, _ = create_run(
        folder,
        PreparedTask(
            TaskReference(
                kind="script",
                name=script.name,
                path=str(script),
                arguments=tuple(arguments),
                python=sys.executable,
                working_folder=START_FOLDER,
                code_digest=_digest(script),
                module=module,
            )
        ),
        name=name or script.stem,
    )
    if mirror is not None:
        set_mirror(layout, mirror)
    return layout


def _find_former(folder: Path, agents: tuple[ProcessIdentity, ...]) -> RunLayout | None:
    """Return the run whose newest attempt was started by one of these processes of torchrun; None without one.

    torchrun numbers its ranks differently in each round, and a machine that comes back counts its rounds from the
    start. But as long as a torchrun lives, so does one of its processes.
    """
    found: list[tuple[float, RunLayout]] = []
    for layout in list_layouts(folder) if agents else []:
        start = read_record_or_none(layout.attempt(layout.latest_attempt()).start, AttemptStart)
        if start is not None and set(start.torchrun) & set(agents):
            found.append((start.time_s, layout))
    return max(found, key=lambda each: each[0])[1] if found else None


def _check_script(layout: RunLayout, script: Path) -> None:
    task = gather_evidence(layout).require_record().task
    if task.kind != "script":
        raise UsageError(
            f"Run {layout.run_id!r} trains the task {task.name!r}, so a script cannot continue it. Use: relight resume "
            f"{layout.run_id}"
        )
    if task.path is not None and Path(task.path).name != script.name:
        raise UsageError(
            f"Run {layout.run_id!r} was made by the script {Path(task.path).name!r}, and this is {script.name!r}. "
            "Start that script, or name another run in RELIGHT_RESUME."
        )


def _take_over(layout: RunLayout, torchrun: Torchrun, *, restarted: bool) -> tuple[RunLock, AttemptStart]:
    """Return the run's lock and the start of its next attempt, when the attempt before has ended.

    Of another machine it is not known at once whether it still trains the run.
    """
    patience_s = ROUND_WAIT_S if restarted else SILENCE_WAIT_S if gather_evidence(layout).foreign else 0.0
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return _try_take_over(layout, torchrun, restarted=restarted)
        except RunBusy:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_POLL_S)


def _try_take_over(layout: RunLayout, torchrun: Torchrun, *, restarted: bool) -> tuple[RunLock, AttemptStart]:
    number = layout.latest_attempt()
    lock = lock_when_free(layout, number)
    try:
        evidence = gather_evidence(layout)
        if restarted:
            _refuse_if_over(evidence)
        refuse_resume(evidence, number)
        choice = choose_newest(layout)
    except BaseException:
        lock.release()
        raise
    notes = (_word_round(number, torchrun), *choice.notes) if restarted else choice.notes
    return lock, AttemptStart(
        attempt=number + 1,
        time_s=time.time(),
        reason="restart" if restarted else "resume",
        from_sequence=choice.sequence,
        from_step=choice.step,
        notes=notes,
    )


def _refuse_if_over(evidence: Evidence) -> None:
    ended, run = evidence.exit, evidence.layout.run_id
    asked = read_stop_request(evidence.layout, attempt=evidence.attempt) is not None  # perhaps since the attempt ended
    if not asked and (ended is None or ended.outcome == "crashed" or ended.stop_signal is not None):
        return
    if ended is not None and ended.outcome == "finished":
        raise RunIsOver(f"Run {run!r} has finished, so there is nothing left to train.")
    raise RunIsOver(f"Run {run!r} was stopped. To continue it, start torchrun again with RELIGHT_RESUME={run}.")


def _word_round(number: int, torchrun: Torchrun) -> str:
    hosts = ", ".join(sorted({agent.host for agent in torchrun.agents}))
    return f"torchrun started the ranks again after attempt {number}: {count(torchrun.nproc, 'rank')}, on {hosts}."


def _digest(script: Path) -> str | None:
    import xxhash

    try:
        return xxhash.xxh3_128_hexdigest(script.read_bytes())
    except OSError:
        return None
