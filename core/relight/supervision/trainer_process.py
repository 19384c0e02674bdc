"""The trainer as a child process: its own session, one log for both streams, a life line, and its part of the lock."""

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
from relight.runs.process_identity import identify_process
from relight.runs.records import ProcessIdentity
from relight.supervision.exit_record import ProcessEnd

LIFELINE_VARIABLE = "RELIGHT_LIFELINE_FD"
LOCK_VARIABLE = "RELIGHT_LOCK_FD"
RUN_VARIABLE = "RELIGHT_RUN_FOLDER"
ATTEMPT_VARIABLE = "RELIGHT_ATTEMPT"

_log = logging.getLogger(__name__)


class TrainerProcess:
    """A started trainer. Its pid is also its session and process group, which it shares with its data loader workers.

    The life line is a pipe that only the supervisor holds open for writing: when the supervisor dies, however it dies,
    the trainer reads its end, and knows.
    """

    def __init__(
        self, layout: RunLayout, attempt: AttemptLayout, *, command: Sequence[str], folder: Path | None, lock_fd: int
    ) -> None:
        """Start it. Raises OSError when the command cannot be run."""
        reading, self._lifeline = os.pipe()
        log = _open_log(attempt.log)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=_environment(layout, attempt, lifeline=reading, lock_fd=lock_fd),
                pass_fds=(reading, lock_fd),
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
        with contextlib.suppress(ProcessLookupError):  # it ended at once: then there is nobody to name
            self.identity = identify_process(self.pid)

    def send(self, which: signal.Signals) -> None:
        """Send a signal: SIGKILL to the whole group, any other to the trainer, which knows how to end the rest."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if which is signal.SIGKILL:
                os.killpg(self.pid, which)
            else:
                os.kill(self.pid, which)

    def poll(self) -> ProcessEnd | None:
        """How it ended, None while it lives. What is left of its process group is killed at that moment."""
        if self._process.returncode is not None or not self._has_ended():
            return None
        # The unreaped trainer still holds its pid, so the group of that number can be no other's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
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
    """The name of a signal number: 9 is "SIGKILL"; one without a name of its own is "signal 35"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _open_log(path: Path) -> int:
    """A descriptor for the log; the null device when the log cannot be made: that must not stop a training."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        _log.warning("The log cannot be written, so this attempt trains without one: %s", error)
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _environment(layout: RunLayout, attempt: AttemptLayout, *, lifeline: int, lock_fd: int) -> Mapping[str, str]:
    return {
        # A crash in native code then leaves Python's stack in the log; lines reach it as they are printed.
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        # Strings hash alike in every attempt, so what goes through a set keeps its order: else no resume is exact.
        "PYTHONHASHSEED": "0",
        **os.environ,
        RUN_VARIABLE: str(layout.folder),
        ATTEMPT_VARIABLE: str(attempt.number),
        LIFELINE_VARIABLE: str(lifeline),
        LOCK_VARIABLE: str(lock_fd),
    }
