"""An attempt's beginning: its folder appears with its start record, and a detached supervisor takes over."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relight.errors import RelightError, RunBusy
from relight.runs.durable_file import sync_folder
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.lock import RunLock
from relight.runs.record_file import write_record
from relight.runs.records import AttemptExit, AttemptStart
from relight.runs.stop_request import clear_stop_request

READY_TIMEOUT_S = 60.0
"""How long a launcher waits for word from the supervisor. On a machine that slow it may still come up later."""

TWIN_WAIT_S = 60.0
"""How long a launch waits for another one with the same token, which may be copying a large checkpoint."""
_LEFTOVER_AGE_S = 3600.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Launched:
    """A run whose attempt `attempt` is on its way. `created` is False when somebody else had already started it."""

    layout: RunLayout
    attempt: int
    created: bool
    notes: tuple[str, ...] = ()
    """Sentences for a person: damaged checkpoints that were passed over, and how many steps that costs."""
    reached_step: int = 0
    """Of a resume: the last step edge of the attempt before. Steps from the checkpoint up to it are trained again."""


@dataclass(frozen=True)
class Adoption:
    """A living process that is to be the attempt's trainer, and the pipe by which it learns of its supervisor's end."""

    pid: int
    lifeline: int


def start_attempt(
    layout: RunLayout,
    start: AttemptStart,
    *,
    lock: RunLock | None = None,
    adoption: Adoption | None = None,
) -> None:
    """Make the attempt's folder and start its supervisor, detached: closing browser, terminal or server ends nothing.

    Returns when the supervisor lives and holds the run's lock, which is handed down to it: it is never free in between.
    `lock` is one that the caller holds already (and goes on to release); with `adoption` no trainer is started, and
    that process is watched instead.
    Raises FileExistsError when that attempt exists, RunBusy when the run is being trained, RelightError when no
    supervisor could be started (the attempt then says so, too).
    """
    own = None if lock is not None else RunLock.acquire(layout)
    held = lock or own
    assert held is not None
    try:
        _clear_leftovers(layout)
        attempt = _begin(layout, start)
        try:
            _spawn_supervisor(layout, attempt, lock=held, adoption=adoption)
        except NotStarted as error:
            _record_failure(attempt, start, str(error))
            raise
    finally:
        if own is not None:
            own.release()


class NotStarted(RelightError):
    """The supervisor that was started ended at once."""


def start_first_attempt(layout: RunLayout, prepare: Callable[[], AttemptStart]) -> Launched:
    """Start a new run's first attempt, unless somebody else with the same token does or did; then wait until it has.

    `prepare` runs with the run's lock held, and only by the one who starts the attempt.
    """
    deadline = time.monotonic() + TWIN_WAIT_S
    while layout.latest_attempt() == 0:
        try:
            with RunLock.acquire(layout) as lock:
                if layout.latest_attempt():
                    break
                start = prepare()
                start_attempt(layout, start, lock=lock)
                return Launched(layout, start.attempt, created=True, notes=start.notes)
        except FileExistsError:
            break
        except RunBusy:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_POLL_S)
    return Launched(layout, layout.latest_attempt(), created=False)


def begin_attempt(layout: RunLayout, start: AttemptStart) -> AttemptLayout:
    """Make the folder of attempt `start.attempt` with its start record in it, in one step that only one caller wins.

    Raises FileExistsError when that attempt is there already.
    """
    attempt = layout.attempt(start.attempt)
    new = AttemptLayout(layout.attempts / f".{attempt.folder.name}-{secrets.token_hex(4)}.tmp", start.attempt)
    try:
        write_record(new.start, start)
        # Renaming a folder replaces an empty one only: a folder with a start record in it stays.
        os.rename(new.folder, attempt.folder)  # noqa: PTH104
    except OSError as error:
        shutil.rmtree(new.folder, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(errno.EEXIST, "This attempt has already begun", str(attempt.folder)) from error
        raise
    sync_folder(layout.attempts)
    return attempt


def _begin(layout: RunLayout, start: AttemptStart) -> AttemptLayout:
    try:
        return begin_attempt(layout, start)
    except FileExistsError:
        raise
    except OSError as error:
        raise RelightError(
            f"Attempt {start.attempt} of run {layout.run_id!r} cannot be started: {error.strerror or error} "
            f"({str(layout.attempts)!r})."
        ) from error


def _record_failure(attempt: AttemptLayout, start: AttemptStart, sentence: str) -> None:
    record = AttemptExit(
        attempt=start.attempt, time_s=time.time(), outcome="crashed", step=start.from_step, reason=sentence
    )
    with contextlib.suppress(OSError):
        write_record(attempt.exit, record, replace=False)


def _clear_leftovers(layout: RunLayout) -> None:
    """Take away what an end without notice left. The run's lock is held, so no request can mean a living attempt."""
    clear_stop_request(layout)
    folders = (layout.folder, layout.attempts, layout.attempt(layout.latest_attempt()).folder)
    for path in (path for folder in folders for path in folder.glob(".*.tmp")):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < _LEFTOVER_AGE_S:
                continue  # somebody may be writing it: a stop request needs no lock
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _spawn_supervisor(
    layout: RunLayout,
    attempt: AttemptLayout,
    *,
    lock: RunLock,
    adoption: Adoption | None,
) -> None:
    """Start the supervisor and wait for word that it has taken over.

    What is started here is a starter that leaves the supervisor behind and ends, so that the supervisor is nobody's
    child: no zombie stays with a server that launched it, and nobody waits for it.
    """
    log = _open_or_null(attempt.supervisor_log)
    # -P: what lies in the current folder must not stand in for modules of ours.
    arguments = [sys.executable, "-P", "-m", "relight.supervision"]
    arguments += [str(layout.folder), str(attempt.number), "--lock-fd", str(lock.fileno())]
    handed = [lock.fileno()]
    if adoption is not None:
        arguments += ["--adopt", f"{adoption.pid}:{adoption.lifeline}"]
        handed.append(adoption.lifeline)
    try:
        starter = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=handed,
            start_new_session=True,
        )
    except OSError as error:
        raise NotStarted(f"No supervisor of run {layout.run_id!r} could be started: {error}.") from error
    finally:
        os.close(log)
    try:
        code = starter.wait(READY_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        starter.kill()
        starter.wait()
        return
    if code < 0:
        # Whether the supervisor lives nobody can tell: the run's status will.
        raise RelightError(
            f"What starts the supervisor of run {layout.run_id!r} was killed (signal {-code}). Look again."
        )
    if code != 0:
        raise NotStarted(
            f"The supervisor of run {layout.run_id!r} could not be started (exit code {code}): "
            f"{_last_line(attempt.supervisor_log)} See {str(attempt.supervisor_log)!r}."
        )


def _open_or_null(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else "it said nothing."
