"""Starting the trainer as a child process on this machine, in its own session and with one log for both streams."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.lock import RunLock
from relight.runs.process_identity import identify_process
from relight.runs.record_file import read_record_or_none
from relight.runs.records import AttemptStart, ProcessIdentity, TaskReference
from relight.supervision.gpu_choice import name_visible
from relight.supervision.launcher import ProcessEnd
from relight.supervision.ranks import LiveRanks
from relight.supervision.trainer_command import build_ranks_command, build_trainer_command

LIFELINE_VARIABLE = "RELIGHT_LIFELINE_FD"
LOCK_VARIABLE = "RELIGHT_LOCK_FD"
RUN_VARIABLE = "RELIGHT_RUN_FOLDER"
ATTEMPT_VARIABLE = "RELIGHT_ATTEMPT"

_log = logging.getLogger(__name__)


class LocalLauncher:
    """Starts each trainer as a child of the supervisor and hands it the run's lock."""

    def __init__(self, layout: RunLayout, *, lock: RunLock) -> None:
        self._layout = layout
        self._lock = lock

    def start(self, task: TaskReference, attempt: AttemptLayout) -> TrainerProcess:
        """Start the trainer of `attempt`.

        Raises RelightError when the task's script, folder or interpreter is missing, OSError when the command cannot
        be run.
        """
        start = read_record_or_none(attempt.start, AttemptStart)
        world_size = start.world_size if start is not None else 1
        if world_size > 1:
            command = build_ranks_command(self._layout, attempt.number, task, nproc=world_size)
        else:
            command = build_trainer_command(self._layout, attempt.number, task)
        return TrainerProcess(
            self._layout,
            attempt,
            command=command.arguments,
            folder=command.folder,
            lock_fd=self._lock.fileno(),
            ranks=LiveRanks(self._layout, attempt.number, world_size) if world_size > 1 else None,
            gpus=start.chosen_gpus if start is not None else (),
        )


COPY_PAST_CACHES = f"glibc.cpu.x86_non_temporal_threshold={2 << 20:#x}"
"""Memory copies of 2 MB or more do not read their target first, so that a snapshot is copied faster.

Without this, glibc starts at three quarters of a core's share of the last cache. On a small machine that is a part of a
large processor, this may be 100 MB and more. The C library reads the variable when a process starts.
"""


class TrainerProcess:
    """A trainer that was started as a child process.

    Its pid is also its session and its process group, which it shares with its data loader workers. Only the supervisor
    holds the writing end of the lifeline pipe: however the supervisor dies, the trainer reads the end of that pipe and
    knows.

    With several `ranks` the child process is torchrun's agent, and each rank has a session of its own.
    """

    def __init__(
        self,
        layout: RunLayout,
        attempt: AttemptLayout,
        *,
        command: Sequence[str],
        folder: Path | None,
        lock_fd: int | None,
        ranks: LiveRanks | None = None,
        gpus: tuple[int, ...] = (),
    ) -> None:
        """Start the process. Without `lock_fd` it inherits neither lock nor lifeline. Raises OSError if it cannot."""
        self._ranks = ranks
        reading, self._lifeline = os.pipe()
        handed = {} if lock_fd is None else {LIFELINE_VARIABLE: reading, LOCK_VARIABLE: lock_fd}
        log = _open_log(attempt.log)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**_environment(layout, attempt, handed), **name_visible(gpus)},
                pass_fds=handed.values(),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(reading)
            os.close(log)
        self.pid = self._process.pid
        self.identity: ProcessIdentity | None = None
        with contextlib.suppress(ProcessLookupError):  # it has already ended
            self.identity = identify_process(self.pid)

    def send(self, which: signal.Signals) -> None:
        """Send SIGKILL to the whole process group; send any other signal to the trainer, which ends its workers.

        Of several ranks, each receives the signal.
        """
        if self._ranks is not None and self._ranks.send(which) and which is not signal.SIGKILL:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if which is signal.SIGKILL:
                os.killpg(self.pid, which)
            else:
                os.kill(self.pid, which)

    def poll(self) -> ProcessEnd | None:
        """Return how the trainer ended, or None while it lives; its end also kills the rest of its process group."""
        if self._process.returncode is not None or not self._has_ended():
            return None
        # The trainer is not reaped yet and still holds its pid, so no other group can have that number.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._ranks is not None:
            self._ranks.send(signal.SIGKILL)  # without an agent, nothing else would end them
        _, status, usage = os.wait4(self.pid, 0)
        os.close(self._lifeline)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        # ru_maxrss is in KiB on Linux, in bytes on macOS.
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if code >= 0:
            return ProcessEnd(exit_code=code, peak_memory_bytes=peak)
        return ProcessEnd(signal=name_signal(-code), peak_memory_bytes=peak)

    def _has_ended(self) -> bool:
        if hasattr(os, "waitid"):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        import psutil  # macOS before Python 3.13 has no waitid

        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


def name_signal(number: int) -> str:
    """Return the name of a signal number: "SIGKILL" for 9, "signal 35" for a number without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _open_log(path: Path) -> int:
    """Open the log for appending, or the null device: a log that cannot be opened must not stop a training."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        _log.warning("The log cannot be opened, so this attempt trains without one: %s", error)
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _environment(layout: RunLayout, attempt: AttemptLayout, handed: Mapping[str, int]) -> Mapping[str, str]:
    return {
        # After a crash in native code the log ends with Python's stack; printed lines reach the log at once.
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        # Strings hash alike in every attempt, so sets keep their order; otherwise no resume would be exact.
        "PYTHONHASHSEED": "0",
        "GLIBC_TUNABLES": COPY_PAST_CACHES,
        **os.environ,
        RUN_VARIABLE: str(layout.folder),
        ATTEMPT_VARIABLE: str(attempt.number),
        **{variable: str(descriptor) for variable, descriptor in handed.items()},
    }
