"""What processes and threads need that must not take the processors and disks from a training: priority, and load."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "arm64": 30}
_BEST_EFFORT_LOWEST = 2 << 13 | 7
_AUTOGROUP = Path("/proc/self/autogroup")


def lower_priority(niceness: int) -> None:
    """Give this process, which leads its own session, a lower priority for processors and disks."""
    with contextlib.suppress(OSError):
        os.nice(niceness)
    with contextlib.suppress(OSError):
        # Where Linux shares the processors among sessions first, only the niceness of the session counts.
        _AUTOGROUP.write_text(str(niceness))
    number = _IOPRIO_SET.get(platform.machine()) if sys.platform == "linux" else None
    if number is not None:
        ctypes.CDLL(None).syscall(number, 1, 0, _BEST_EFFORT_LOWEST)


class ProcessorLoad:
    """How busy the machine's processors are between two questions."""

    def __init__(self) -> None:
        self._before = _read_times()

    def read_share(self) -> float:
        """Return the share of the processors' time that was in use since the last call, or since the beginning."""
        before, self._before = self._before, _read_times()
        idle_s, all_s = (now - then for now, then in zip(self._before, before, strict=True))
        return 1.0 - idle_s / all_s if all_s > 0 else 0.0


def _read_times() -> tuple[float, float]:
    """Return the seconds that processors were idle, and all seconds. Time that waits for a disk is idle."""
    import psutil

    times = psutil.cpu_times()
    return times.idle + getattr(times, "iowait", 0.0), sum(times) - getattr(times, "guest", 0.0)
