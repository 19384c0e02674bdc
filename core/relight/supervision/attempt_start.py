"""Starting an attempt: its folder appears with the start record, and a detached supervisor takes over."""

from __future__ import annotations

import contextlib
import errno
import os
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
from relight.runs.process_identity import identify_process
from relight.runs.record_file import write_record
from relight.runs.records import AttemptExit, AttemptProcesses, AttemptStart
from relight.runs.stop_request import clear_stop_request
from relight.supervision.job_submission import NotSubmitted, is_for_slurm, submit_job

FORK_TIMEOUT_S = 60.0
"""How long to wait until a supervisor has a process. On a very slow machine it may still start later."""

TWIN_WAIT_S = 60.0
"""How long a launch waits for an earlier one with the same token, which may be copying a large checkpoint."""
_LEFTOVER_AGE_S = 3600.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Launched:
    """A run whose attempt `attempt` was started. `created` is False if an earlier call with this token started it."""

    layout: RunLayout
    attempt: int
    created: bool
    notes: tuple[str, ...] = ()
    """Messages for the user: which damaged checkpoints were skipped, and how many steps that costs."""
    reached_step: int = 0
    """For a resume: the last step edge of the attempt before. Steps from the checkpoint to it are trained again."""


@dataclass(frozen=True)
class Adoption:
    """A live process that becomes the attempt's trainer; `lifeline` is the writing end of the pipe it watches."""

    pid: int
    lifeline: int


class OwnSupervisor:
    """The caller is going to supervise the attempt itself, and is handed the run's lock."""

    lock: RunLock | None = None

    def take(self, lock: RunLock) -> None:
        """Keep the lock, also when the starter releases it."""
        self.lock = RunLock(os.dup(lock.fileno()))


def start_attempt(
    layout: RunLayout,
    start: AttemptStart,
    *,
    lock: RunLock,
    adoption: Adoption | None = None,
    own: OwnSupervisor | None = None,
) -> None:
    """Create the attempt's folder and start its supervisor, detached: closing browser, terminal or server ends nothing.

    If Slurm starts the run's trainings, submit a job instead, which starts the supervisor when it has its nodes. With
    `own` the caller is the supervisor.

    Returns when the supervisor is on record and also holds `lock`, the run's lock, which the caller releases later; the
    supervisor may still be loading its modules. With `adoption` it starts no trainer and watches that process instead.
    Raises FileExistsError when the attempt exists, and RelightError when no supervisor could be started (the attempt's
    exit record then says so, too).
    """
    _clear_leftovers(layout)
    attempt = _begin(layout, start)
    try:
        supervisor = None
        if own is not None:
            own.take(lock)
        elif is_for_slurm(layout):
            submit_job(layout)
        else:
            supervisor = _spawn_supervisor(layout, attempt, lock=lock, adoption=adoption)
    except (_NotStarted, NotSubmitted) as error:
        _record_failure(attempt, start, str(error))
        raise
    if supervisor is not None:
        _put_on_record(attempt, supervisor)


def start_first_attempt(
    layout: RunLayout, prepare: Callable[[], AttemptStart], *, own: OwnSupervisor | None = None
) -> Launched:
    """Start a new run's first attempt. If an earlier call with the same token is starting it, wait for that one.

    `prepare` runs under the run's lock, and only in the call that starts the attempt.
    """
    deadline = time.monotonic() + TWIN_WAIT_S
    while layout.latest_attempt() == 0:
        try:
            with RunLock.acquire(layout) as lock:
                if layout.latest_attempt():
                    break
                start = prepare()
                start_attempt(layout, start, lock=lock, own=own)
                return Launched(layout, start.attempt, created=True, notes=start.notes)
        except FileExistsError:
            break
        except RunBusy:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_POLL_S)
    return Launched(layout, layout.latest_attempt(), created=False)


def begin_attempt(layout: RunLayout, start: AttemptStart) -> AttemptLayout:
    """Create the folder of attempt `start.attempt` with its start record, in one atomic step.

    Raises FileExistsError when the attempt already exists.
    """
    attempt = layout.attempt(start.attempt)
    new = AttemptLayout(layout.attempts / f".{attempt.folder.name}-{os.urandom(4).hex()}.tmp", start.attempt)
    try:
        new.folder.mkdir()
        write_record(new.start, start)
        # A rename replaces a folder only if it is empty, so never one with a start record.
        os.rename(new.folder, attempt.folder)  # noqa: PTH104
    except OSError as error:
        shutil.rmtree(new.folder, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(errno.EEXIST, "This attempt has already started", str(attempt.folder)) from error
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
            f"Attempt {start.attempt} of run {layout.run_id!r} could not be started: {error.strerror or error} "
            f"({str(layout.attempts)!r}). Check that you can write to this folder and that the disk is not full."
        ) from error


def _record_failure(attempt: AttemptLayout, start: AttemptStart, sentence: str) -> None:
    record = AttemptExit(
        attempt=start.attempt, time_s=time.time(), outcome="crashed", step=start.from_step, reason=sentence
    )
    with contextlib.suppress(OSError):
        write_record(attempt.exit, record, replace=False)


def _put_on_record(attempt: AttemptLayout, supervisor: int) -> None:
    """Put the supervisor on record, if it has not done that itself: it first loads its modules."""
    with contextlib.suppress(OSError):  # on a full disk the supervisor fails too, and its exit record says so
        record = AttemptProcesses(supervisor=identify_process(supervisor))
        write_record(attempt.processes, record, replace=False, durable=False)


def _clear_leftovers(layout: RunLayout) -> None:
    """Remove what a sudden end left behind. The caller holds the run's lock, so no request is for a live attempt."""
    clear_stop_request(layout)
    folders = (layout.folder, layout.attempts, layout.attempt(layout.latest_attempt()).folder)
    for path in (path for folder in folders for path in folder.glob(".*.tmp")):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < _LEFTOVER_AGE_S:
                continue  # another process may be writing it: a stop request needs no lock
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
) -> int | None:
    """Start the supervisor and return its pid; None if it is not known yet.

    The process started here forks the supervisor and ends. So the supervisor is not a child of the dashboard's server,
    which would have to reap it.
    """
    log = _open_or_null(attempt.supervisor_log)
    # -P: files in the current folder must not shadow our modules.
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
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=handed,
            start_new_session=True,
        )
    except OSError as error:
        raise _NotStarted(f"The supervisor of run {layout.run_id!r} could not be started: {error}.") from error
    finally:
        os.close(log)
    with starter:
        try:
            told, _ = starter.communicate(timeout=FORK_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            starter.kill()
            return None
    code = starter.returncode
    if code < 0:
        # The supervisor may be alive or not; the run's status will show it.
        raise RelightError(
            f"The process that starts the supervisor of run {layout.run_id!r} was killed (signal {-code}). Check the "
            "run's status before you start it again."
        )
    if code != 0 or not told:
        raise _NotStarted(
            f"The supervisor of run {layout.run_id!r} could not be started (exit code {code}): "
            f"{_last_line(attempt.supervisor_log)} See {str(attempt.supervisor_log)!r}."
        )
    return int(told)


class _NotStarted(RelightError):
    """The supervisor ended immediately or was never started."""


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
    return lines[-1] if lines else "its log is empty."
