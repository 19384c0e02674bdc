"""The lock of a run, which keeps two trainings out of one folder.

It is an flock on the file `lock`, so the kernel releases it when the last process that holds it ends, however it ends.
Supervisor, trainer and checkpoint writer share one open file: a run is busy until its writer has ended, too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from relight.errors import RelightError, RunBusy
from relight.regular_file import open_regular, read_regular
from relight.runs.layout import RunLayout
from relight.runs.process_identity import is_alive
from relight.runs.record_file import read_record_or_none
from relight.runs.records import AttemptProcesses, ProcessIdentity

_WRITING = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_POLL_S = 0.02
_PROBE_S = 0.5
_PROBE_POLL_S = 0.002
"""`is_locked` holds a shared lock for a moment, longer on a busy machine; `acquire` retries often to outlast it."""


class RunLock:
    """A held lock. It ends with `release`, or with the last process that inherited its descriptor."""

    def __init__(self, descriptor: int) -> None:
        """Take over an open, locked descriptor, as a child does that inherited one."""
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, layout: RunLayout, timeout_s: float = 0.0) -> RunLock:
        """Lock the run. Waits up to `timeout_s` for the holder, then raises `RunBusy` with the holder's pid."""
        descriptor = _open(layout)
        probe_until = time.monotonic() + _PROBE_S
        deadline = time.monotonic() + max(timeout_s, _PROBE_S)
        try:
            while not _try_lock(descriptor, fcntl.LOCK_EX, layout.lock):
                now = time.monotonic()
                if now >= deadline:
                    raise busy_error(layout)
                time.sleep(_PROBE_POLL_S if now < probe_until else _POLL_S)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            # The pid in the file is only for messages: a full disk must not cost the lock that we already hold.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                os.close(descriptor)
                raise
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def fileno(self) -> int:
        """Return the descriptor. A child that inherits it (`pass_fds`) holds the lock too."""
        return self._descriptor

    def release(self) -> None:
        """Release this process's hold. The run is free once all processes that inherited it have done so or ended."""
        # Close, not LOCK_UN: that would release the lock for the children that share the open file, too.
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_locked(layout: RunLayout) -> bool:
    """Return whether any process holds the lock right now. Never raises; without a lock file it is free."""
    try:
        descriptor = open_regular(layout.lock)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH, layout.lock)
    except RelightError:
        return False
    finally:
        os.close(descriptor)


def busy_error(layout: RunLayout) -> RunBusy:
    """Return the error for a run that is locked; it names the holder where that is known."""
    holder = _holder_pid(layout)
    pid = f" (pid {holder})" if holder else ""
    return RunBusy(
        f"Run {layout.run_id!r} is already training{pid}. Stop it first, or branch from its last checkpoint."
    )


def _open(layout: RunLayout) -> int:
    try:
        return open_regular(layout.lock, flags=_WRITING)
    except OSError as error:
        raise RelightError(
            f"Run {layout.run_id!r} cannot be locked: {str(layout.lock)!r}: {error.strerror or error}. "
            "Training needs a run folder with write permission."
        ) from error


def _try_lock(descriptor: int, mode: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RelightError(
            f"{str(path)!r} cannot be locked: {error.strerror or error}. "
            "Move the runs folder to a file system that supports locks."
        ) from error
    return True


def _holder_pid(layout: RunLayout) -> int | None:
    """Return the pid of the trainer, supervisor or writer if one is alive, else of the one that took the lock."""
    attempt = layout.attempt(layout.latest_attempt())
    candidates: list[ProcessIdentity | None] = []
    processes = read_record_or_none(attempt.processes, AttemptProcesses)
    if processes is not None:
        candidates += [processes.trainer, processes.supervisor]
    candidates.append(read_record_or_none(attempt.writer, ProcessIdentity))
    for identity in candidates:
        if identity is not None and is_alive(identity):
            return identity.pid
    return read_taker(layout)


def read_taker(layout: RunLayout) -> int | None:
    """Return the pid of the process that took the lock last, if a process with that pid is alive."""
    try:
        pid = int(read_regular(layout.lock)[:20])
        os.kill(pid, 0)
    except PermissionError:
        return pid
    except (OSError, ValueError, OverflowError):
        return None
    return pid
