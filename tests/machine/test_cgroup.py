"""Limits of control groups, read from folders laid out as the kernel's."""

from __future__ import annotations

from pathlib import Path

from relight.machine.cgroup import CgroupLimits


def _lay(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_v2_takes_the_tightest_limit_on_the_way_up(tmp_path: Path) -> None:
    root, membership = tmp_path / "fs", tmp_path / "cgroup"
    membership.write_text("0::/slice/job\n")
    _lay(
        root,
        {
            "cgroup.controllers": "cpu memory\n",
            "slice/memory.max": "4000\n",
            "slice/memory.current": "3000\n",
            "slice/memory.stat": "anon 1\ninactive_file 500\n",
            "slice/cpu.max": "150000 100000\n",
            "slice/job/memory.max": "max\n",
            "slice/job/cpu.max": "max 100000\n",
        },
    )
    limits = CgroupLimits(root=root, membership=membership)
    assert limits.memory() == (4000, 2500)
    assert limits.cpus() == 1.5


def test_v1_in_a_container_reads_the_mounts_root_when_the_hosts_path_is_not_there(tmp_path: Path) -> None:
    root, membership = tmp_path / "fs", tmp_path / "cgroup"
    membership.write_text("4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n")
    _lay(
        root,
        {
            "memory/memory.limit_in_bytes": "4000\n",
            "memory/memory.usage_in_bytes": "1000\n",
            "memory/memory.stat": "total_inactive_file 100\n",
            "cpu/cpu.cfs_quota_us": "50000\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    limits = CgroupLimits(root=root, membership=membership)
    assert limits.memory() == (4000, 900)
    assert limits.cpus() == 0.5


def test_no_limit_and_no_control_groups_are_both_none(tmp_path: Path) -> None:
    root, membership = tmp_path / "fs", tmp_path / "cgroup"
    missing = CgroupLimits(root=root, membership=membership)
    assert (missing.memory(), missing.cpus()) == (None, None)
    membership.write_text("0::/\n")
    _lay(root, {"cgroup.controllers": "", "memory.max": "max\n", "cpu.max": "max 100000\n"})
    unlimited = CgroupLimits(root=root, membership=membership)
    assert (unlimited.memory(), unlimited.cpus()) == (None, None)
