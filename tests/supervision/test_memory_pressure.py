"""Evidence of the kernel's out-of-memory killer, from files that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.machine.cgroup import CgroupLimits
from relight.supervision.memory_pressure import OutOfMemoryWatch


class Kernel:
    """Counter files of control group version `version`, and the machine's."""

    def __init__(self, folder: Path, version: int) -> None:
        self.root = folder / "cgroup"
        self.membership = folder / "membership"
        self.vmstat = folder / "vmstat"
        if version == 2:
            self.group = self.root / "job"
            self.membership.write_text("0::/job\n")
            self.events = self.group / "memory.events"
        else:
            self.group = self.root / "memory" / "job"
            self.membership.write_text("4:memory:/job\n")
            self.events = self.group / "memory.oom_control"
        self.group.mkdir(parents=True)
        if version == 2:
            (self.root / "cgroup.controllers").write_text("memory\n")
        self.set(group=0, machine=0)

    def set(self, *, group: int, machine: int) -> None:
        self.events.write_text(f"oom {group}\noom_kill {group}\n")
        self.vmstat.write_text(f"nr_free_pages 1\noom_kill {machine}\nunevictable 2\n")

    def watch(self) -> OutOfMemoryWatch:
        return OutOfMemoryWatch(group=CgroupLimits(root=self.root, membership=self.membership), vmstat=self.vmstat)


@pytest.fixture(params=[1, 2])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Kernel:
    return Kernel(tmp_path, request.param)


def test_no_kill_is_no_evidence(kernel: Kernel) -> None:
    assert kernel.watch().evidence() is None


def test_a_kill_in_the_attempts_own_group_is_distinguished_from_one_on_the_machine(kernel: Kernel) -> None:
    watch = kernel.watch()
    kernel.set(group=0, machine=1)
    assert watch.evidence() == "machine"
    kernel.set(group=1, machine=1)
    assert watch.evidence() == "group"


def test_kills_before_the_watch_began_do_not_count(kernel: Kernel) -> None:
    kernel.set(group=3, machine=9)
    assert kernel.watch().evidence() is None


def test_old_kills_do_not_count_but_one_just_before_a_refresh_does(kernel: Kernel) -> None:
    watch = kernel.watch()
    kernel.set(group=0, machine=1)
    watch.refresh()
    assert watch.evidence() == "machine"
    watch.refresh()
    assert watch.evidence() is None


def test_without_the_kernels_files_there_is_no_evidence(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    watch = OutOfMemoryWatch(group=CgroupLimits(root=nowhere, membership=nowhere), vmstat=nowhere)
    watch.refresh()
    assert watch.evidence() is None
