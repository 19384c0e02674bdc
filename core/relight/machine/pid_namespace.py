"""Tells whether this process sees the host's pids: GPU drivers list those, and a container has its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

# The inode of the kernel's first pid namespace: PROC_PID_INIT_INO in include/linux/proc_ns.h, 0xEFFFFFFC.
_FIRST_NAMESPACE = "pid:[4026531836]"


@cache
def pids_are_the_hosts() -> bool:
    """Return True in the first pid namespace, and on systems without pid namespaces."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _FIRST_NAMESPACE
    except OSError:
        return not Path("/proc/self").exists()
