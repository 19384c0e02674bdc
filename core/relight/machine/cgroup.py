"""Reads how much memory and processor time a container or job may use: Linux control groups, v1 and v2."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


class CgroupLimits:
    """The tightest limits between this process's group and the root. None where nothing is limited.

    The files are found once, and read each time, since a limit can change at any moment. Inside a container the path in
    `membership` may be the host's and not exist here; then the group is the root itself.
    """

    def __init__(self, *, root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> None:
        self._v2 = (root / "cgroup.controllers").exists()
        paths = _memberships(membership)
        self._memory_groups = _groups(root, paths.get("", "/")) if self._v2 else _groups_v1(root, paths, "memory")
        self._cpu_groups = _groups(root, paths.get("", "/")) if self._v2 else _groups_v1(root, paths, "cpu")

    def memory(self) -> tuple[int, int] | None:
        """Return the tightest memory limit and how much of it its group uses, in bytes; None without a limit.

        Usage is what the kernel cannot simply drop: the group's usage minus its inactive file pages, as in
        `docker stats`.
        """
        limit_name = "memory.max" if self._v2 else "memory.limit_in_bytes"
        limits = [
            (limit, group) for group in self._memory_groups if (limit := _integer(group / limit_name)) is not None
        ]
        if not limits:
            return None
        limit, group = min(limits, key=lambda pair: pair[0])
        used = _integer(group / ("memory.current" if self._v2 else "memory.usage_in_bytes"))
        if used is None:
            return None
        droppable = _stat(group / "memory.stat", "inactive_file" if self._v2 else "total_inactive_file")
        return limit, max(0, used - droppable)

    def cpus(self) -> float | None:
        """Return how many processors' worth of time may be used; None without a limit."""
        quotas = [quota for group in self._cpu_groups if (quota := self._quota(group)) is not None]
        return min(quotas, default=None)

    def out_of_memory_kills(self) -> int | None:
        """Return how many of this group's processes the kernel killed for lack of memory; None if it does not count."""
        if not self._memory_groups:
            return None
        events = self._memory_groups[0] / ("memory.events" if self._v2 else "memory.oom_control")
        words = _words(events)
        return _stat(events, "oom_kill") if "oom_kill" in words else None

    def _quota(self, group: Path) -> float | None:
        if self._v2:
            words = _words(group / "cpu.max")
        else:
            words = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        try:
            quota, period = (int(word) for word in words)
        except ValueError:  # "max", or no such file
            return None
        return quota / period if quota > 0 and period > 0 else None


def _memberships(file: Path) -> dict[str, str]:
    """Return the path of this process's group by controller; the v2 group has the empty name."""
    paths: dict[str, str] = {}
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return paths
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _groups_v1(root: Path, paths: dict[str, str], controller: str) -> list[Path]:
    return _groups(root / controller, paths.get(controller, "/"))


def _groups(mount: Path, path: str) -> list[Path]:
    """Return the existing folders from the group's own up to the mount."""
    group = mount / path.strip("/")
    folders = [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]
    return [folder for folder in folders if folder.is_dir()]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _integer(file: Path) -> int | None:
    words = _words(file)
    return int(words[0]) if words and words[0].isdigit() else None


def _stat(file: Path, key: str) -> int:
    words = _words(file)
    for name, value in zip(words[::2], words[1::2], strict=False):
        if name == key and value.isdigit():
            return int(value)
    return 0
