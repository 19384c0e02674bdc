"""The low priority of a process that must not take the processors and disks from a training."""

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
