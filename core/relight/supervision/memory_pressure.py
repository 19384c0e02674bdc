"""Evidence that the kernel's out-of-memory killer was active, from counters that are cheap to read."""

from __future__ import annotations

from pathlib import Path

from relight.machine.cgroup import CgroupLimits
from relight.supervision.exit_record import OutOfMemory

_VMSTAT = Path("/proc/vmstat")
_Counts = tuple[int | None, int | None]


class OutOfMemoryWatch:
    """Compares the kernel's counts of killed processes with those of a short while ago.

    In a long training, some unrelated process may have been killed hours ago. So `refresh` moves the reference point
    along, and evidence covers the last one to two intervals between its calls. The trainer is in the supervisor's
    control group. On systems other than Linux there is never any evidence.
    """

    def __init__(self, *, group: CgroupLimits | None = None, vmstat: Path = _VMSTAT) -> None:
        self._group = group or CgroupLimits()
        self._vmstat = vmstat
        self._recent = self._earlier = self._count()

    def refresh(self) -> None:
        """Move the reference point along. Call this every few seconds."""
        self._earlier, self._recent = self._recent, self._count()

    def evidence(self) -> OutOfMemory | None:
        """Return what ran out of memory recently; None when nothing did or when that is unknown."""
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
