"""Identifies processes, and tells whether a recorded process is still alive under its pid."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from relight.runs.records import ProcessIdentity

_ENDED = (b"Z", b"X", b"x")
_STATE_FIELD, _START_FIELD = 0, 19
"""Positions in /proc/PID/stat after the command, which may contain spaces and brackets (fields 3 and 22 in proc(5))."""


def current_process() -> ProcessIdentity:
    """Return the identity of this process."""
    return identify_process(os.getpid())


def identify_process(pid: int) -> ProcessIdentity:
    """Return the identity of the process with that pid. Raises `ProcessLookupError` when it is gone or a zombie."""
    start = _start_of(pid)
    if start is None:
        raise ProcessLookupError(f"No process with pid {pid}.")
    return ProcessIdentity(pid=pid, start_ticks=start, boot_id=boot_id(), host=host_name())


def is_alive(identity: ProcessIdentity | None) -> bool:
    """Return whether exactly that process is alive: same boot, pid and start time, and not a zombie. Never raises."""
    if identity is None or identity.boot_id != boot_id():
        return False
    start = _start_of(identity.pid)
    return start is not None and abs(start - identity.start_ticks) < 1.0


@functools.cache
def boot_id() -> str:
    """Identify this boot of the machine: by the kernel's boot id or, where there is none, by the boot time."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import psutil

        return f"boot-{psutil.boot_time():.0f}"


@functools.cache
def host_name() -> str:
    """Return the name of this machine."""
    return os.uname().nodename


def _start_of(pid: int) -> float | None:
    """Return when the process started (on Linux in clock ticks since boot); None when it is not alive."""
    if pid <= 0:
        return None
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None if _has_proc() else _start_without_proc(pid)
    try:
        fields = os.read(descriptor, 1024).rpartition(b")")[2].split()
    except OSError:
        return None  # it ended between open and read (ESRCH)
    finally:
        os.close(descriptor)
    if len(fields) <= _START_FIELD or fields[_STATE_FIELD] in _ENDED:
        return None
    return float(fields[_START_FIELD])


@functools.cache
def _has_proc() -> bool:
    return Path("/proc/self/stat").exists()


def _start_without_proc(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.Error:
        return None
