"""Reads processor, memory, disk and load of the machine and of one process tree."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from relight.machine.cgroup import CgroupLimits

# The scan for new children visits every process of the machine; this is the share of one processor it may use.
_SCAN_SHARE = 0.01


@dataclass(frozen=True)
class HostSample:
    """One reading. A figure is None when the machine does not report it, or when a rate has no earlier reading.

    `cpu_percent` is that of the process tree: 100 is one busy processor. `machine_cpu_percent` is that of all
    processors, 0 to 100. Memory totals and `cpu_count` respect a container's limits. The tree's memory is the sum of
    resident sizes, so pages that processes share count once for each. `read_bytes` and `write_bytes` are the totals
    that the tree's processes have read from and written to disks since they started.
    """

    machine_cpu_percent: float | None
    cpu_count: float
    load_1m: float | None
    machine_memory_bytes: int
    machine_memory_total_bytes: int
    disk_free_bytes: int | None
    disk_total_bytes: int | None
    disk_read_bytes_s: float | None
    disk_write_bytes_s: float | None
    pids: frozenset[int]
    cpu_percent: float | None
    memory_bytes: int | None
    read_bytes: int | None
    write_bytes: int | None

    @property
    def cpu_share_percent(self) -> float | None:
        """Processor time of the tree as a share of the machine's, 0 to 100, like `machine_cpu_percent`."""
        return None if self.cpu_percent is None else min(100.0, self.cpu_percent / max(self.cpu_count, 0.01))

    @property
    def processes(self) -> int:
        """Number of live processes in the tree."""
        return len(self.pids)


@dataclass
class _Member:
    process: psutil.Process
    cpu_s: float | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None


class HostReader:
    """Takes readings. It remembers the last one, since processor and disk figures are differences between two."""

    def __init__(self, *, limits: CgroupLimits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits or CgroupLimits()
        self._clock = clock
        self._busy: tuple[float, float] | None = None
        self._disk: tuple[float, int, int] | None = None
        self._tree = _Tree()

    def read(self, folder: Path, *, root_pids: Sequence[int] = ()) -> HostSample:
        """Read the machine, the file system of `folder`, and `root_pids` with their descendants.

        A descendant whose parent dies stays in the tree until it dies itself or `root_pids` change.
        """
        now = self._clock()
        used, total = self._memory()
        free_bytes, total_bytes = _disk_space(folder)
        read_s, write_s = self._disk_rates(now)
        if tuple(root_pids) != self._tree.roots:
            self._tree = _Tree(tuple(root_pids))
        tree = self._tree.read(now)
        return HostSample(
            machine_cpu_percent=self._machine_cpu(),
            cpu_count=self._cpu_count(),
            load_1m=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            machine_memory_bytes=used,
            machine_memory_total_bytes=total,
            disk_free_bytes=free_bytes,
            disk_total_bytes=total_bytes,
            disk_read_bytes_s=read_s,
            disk_write_bytes_s=write_s,
            pids=tree.pids,
            cpu_percent=tree.cpu_percent,
            memory_bytes=tree.memory_bytes,
            read_bytes=tree.read_bytes,
            write_bytes=tree.write_bytes,
        )

    def _memory(self) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        limited = self._limits.memory()
        if limited is not None and limited[0] < memory.total:
            return limited[1], limited[0]
        return memory.total - memory.available, memory.total

    def _cpu_count(self) -> float:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        quota = self._limits.cpus()
        return float(usable) if quota is None else min(float(usable), quota)

    def _machine_cpu(self) -> float | None:
        times = psutil.cpu_times()
        # Linux includes guest time in user time.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy = total - times.idle - getattr(times, "iowait", 0.0)
        before, self._busy = self._busy, (busy, total)
        if before is None or total <= before[1]:
            return None
        return min(100.0, max(0.0, 100 * (busy - before[0]) / (total - before[1])))

    def _disk_rates(self, now: float) -> tuple[float | None, float | None]:
        try:
            counters = psutil.disk_io_counters()
        except (
            OSError,
            RuntimeError,
            ValueError,
            NotImplementedError,
        ):  # containers may hide or mangle /proc/diskstats
            counters = None
        if counters is None:
            return None, None
        before, self._disk = self._disk, (now, counters.read_bytes, counters.write_bytes)
        if before is None or now <= before[0]:
            return None, None
        elapsed_s = now - before[0]
        return (
            max(0, counters.read_bytes - before[1]) / elapsed_s,
            max(0, counters.write_bytes - before[2]) / elapsed_s,
        )


@dataclass(frozen=True)
class _TreeSample:
    pids: frozenset[int] = frozenset()
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None


class _Tree:
    """The processes of one tree, with what each had used at the last reading."""

    def __init__(self, roots: tuple[int, ...] = ()) -> None:
        self.roots = roots
        self._members: dict[int, _Member] = {}
        self._read_at: float | None = None
        self._scan_at = float("-inf")
        self._io: tuple[int, int] | None = None

    def read(self, now: float) -> _TreeSample:
        if not self.roots:
            return _TreeSample()
        if now >= self._scan_at:
            self._scan(now)
        elapsed_s = None if self._read_at is None else now - self._read_at
        self._read_at = now
        cpu_s, memory_bytes = 0.0, 0
        for pid, member in list(self._members.items()):
            try:
                used_s, resident = self._read_member(member)
            except psutil.Error:
                # Gone, a zombie, or not readable. Another process may have taken its place: scan again next time.
                del self._members[pid]
                self._scan_at = float("-inf")
                continue
            cpu_s += used_s
            memory_bytes += resident
        if not self._members:
            return _TreeSample()
        return _TreeSample(
            pids=frozenset(self._members),
            cpu_percent=100 * cpu_s / elapsed_s if elapsed_s else None,
            memory_bytes=memory_bytes,
            read_bytes=self._io[0] if self._io else None,
            write_bytes=self._io[1] if self._io else None,
        )

    def _scan(self, now: float) -> None:
        started = time.perf_counter()
        for root in self.roots:
            try:
                process = psutil.Process(root)
                family = [process, *process.children(recursive=True)]
            except psutil.Error:
                continue
            for relative in family:
                known = self._members.get(relative.pid)
                if known is None or known.process != relative:
                    self._members[relative.pid] = _Member(relative)
        self._scan_at = now + (time.perf_counter() - started) / _SCAN_SHARE

    def _read_member(self, member: _Member) -> tuple[float, int]:
        """Return processor seconds since the last reading, and resident bytes now. Raises `psutil.Error`."""
        process = member.process
        with process.oneshot():
            # psutil does not raise when another process has taken the pid; `is_running` compares the start time.
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                raise psutil.NoSuchProcess(process.pid)
            times = process.cpu_times()
            resident = int(process.memory_info().rss)
        total_s = times.user + times.system
        used_s = 0.0 if member.cpu_s is None else max(0.0, total_s - member.cpu_s)
        member.cpu_s = total_s
        self._count_io(member)
        return used_s, resident

    def _count_io(self, member: _Member) -> None:
        try:
            counters = member.process.io_counters()
        except (psutil.Error, AttributeError, OSError):  # not on macOS, not for another user's process
            return
        read_bytes, write_bytes = self._io or (0, 0)
        self._io = (
            read_bytes + max(0, counters.read_bytes - (member.read_bytes or 0)),
            write_bytes + max(0, counters.write_bytes - (member.write_bytes or 0)),
        )
        member.read_bytes, member.write_bytes = counters.read_bytes, counters.write_bytes


def _disk_space(folder: Path) -> tuple[int | None, int | None]:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None, None
    return usage.free, usage.total
