"""Evidence that the kernel's out-of-memory killer was at work, from counters that cost next to nothing to read."""

from __future__ import annotations

from pathlib import Path

from relight.machine.cgroup import CgroupLimits
from relight.supervision.exit_record import OutOfMemory

_VMSTAT = Path("/proc/vmstat")
_Counts = tuple[int | None, int | None]


class OutOfMemoryWatch:
    """Compares the kernel's counts of killed processes now with those of a while ago.

    A process elsewhere on the machine may have been killed at any time in a long training, so `refresh` moves the
    "while ago" along: evidence covers one to two of its intervals. The trainer shares the supervisor's control group.
    Anywhere but on Linux nothing is known and nothing is claimed.
    """

    def __init__(self, *, group: CgroupLimits | None = None, vmstat: Path = _VMSTAT) -> None:
        self._group = group or CgroupLimits()
        self._vmstat = vmstat
        self._recent = self._earlier = self._count()

    def refresh(self) -> None:
        """Call this every few seconds."""
        self._earlier, self._recent = self._recent, self._count()

    def evidence(self) -> OutOfMemory | None:
        """Who ran out of memory lately; None when nobody did, or nobody can tell."""
        (group, machine), (group_before, machine_before) = self._count(), self._earlier
        if group is not None and group_before is not None and group > group_before:
            return "group"
        if machine is not None and machine_before is not None and machine > machine_before:
            return "machine"
        return None

    def _count(self) -> _Counts:
        return self._group.out_of_memory_kills(), self._machine_kills()

    def _machine_kills(self) -> int | None:
        try:
            with self._vmstat.open("rb") as lines:
                for line in lines:
                    if line.startswith(b"oom_kill "):
                        return int(line.split()[1])
        except (OSError, ValueError, IndexError):
            pass
        return None
