"""A run for a script that you started yourself with `python`, with a supervisor that watches its process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relight.mirror.address import check_place, choose_mirror
from relight.mirror.report import set_mirror
from relight.runs.catalog import create_run, runs_folder
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.records import AttemptStart, PreparedTask, TaskReference, name_nproc
from relight.start_folder import START_FOLDER
from relight.supervision.attempt_start import Adoption, start_attempt


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
    nproc: int = 1,
) -> Standalone:
    """Create a run for this process and start a supervisor that watches it.

    A resume starts the same script with the same arguments, folder and interpreter. RELIGHT_MIRROR says where to copy
    the run. `nproc` is the number of its ranks; the supervisor watches rank 0. Raises `RelightError` when the runs
    folder cannot be written or no supervisor can be started.
    """
    script = Path(START_FOLDER or "", script)
    folder = runs_folder(runs, start=START_FOLDER)
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
    lock = RunLock.acquire(layout)
    reading, writing = os.pipe()
    try:
        start_attempt(
            layout,
            AttemptStart(attempt=1, time_s=time.time(), reason="launch", nproc=name_nproc(nproc)),
            lock=lock,
            adoption=Adoption(pid=os.getpid(), lifeline=writing),
        )
    except BaseException:
        os.close(reading)
        lock.release()
        raise
    finally:
        os.close(writing)
    return Standalone(layout, 1, lock, reading)


def _digest(script: Path) -> str | None:
    import xxhash

    try:
        return xxhash.xxh3_128_hexdigest(script.read_bytes())
    except OSError:
        return None
