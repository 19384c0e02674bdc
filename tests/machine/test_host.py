"""The host reader on this machine, with real processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relight.machine.cgroup import CgroupLimits
from relight.machine.host import HostReader, HostSample

# A parent that keeps 64 MB, with a child that keeps a processor busy. The parent's end does not end the child.
_PARENT = """
import subprocess, sys, time
held = bytearray(64_000_000)
child = subprocess.Popen([sys.executable, "-c", "import time\\nend = time.time() + 60\\nwhile time.time() < end: pass"])
print(child.pid, flush=True)
time.sleep(60)
"""


def _until(read: Callable[[], HostSample], true: Callable[[HostSample], bool], seconds: float = 20.0) -> HostSample:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        sample = read()
        if true(sample):
            return sample
        time.sleep(0.05)
    raise AssertionError(f"not in {seconds} s; the last sample: {sample}")


@pytest.fixture
def tree() -> Iterator[tuple[subprocess.Popen[str], int]]:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child_pid = int(parent.stdout.readline())
    yield parent, child_pid
    parent.kill()
    # The child holds the pipe's other end: it goes first, or reading to the end would wait for it.
    with contextlib.suppress(ProcessLookupError):
        os.kill(child_pid, 9)
    parent.communicate()


def test_a_tree_is_summed_over_parent_and_child(tree: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    parent, child_pid = tree
    reader = HostReader()
    reader.read(tmp_path, root_pids=[parent.pid])
    sample = _until(
        lambda: reader.read(tmp_path, root_pids=[parent.pid]), lambda s: (s.cpu_percent or 0) > 20 and s.processes == 2
    )
    assert sample.pids == {parent.pid, child_pid}
    assert sample.memory_bytes is not None
    assert 64_000_000 < sample.memory_bytes < 500_000_000


def test_an_orphan_still_counts_and_a_dead_tree_is_empty(
    tree: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    parent, child_pid = tree
    reader = HostReader()
    read = lambda: reader.read(tmp_path, root_pids=[parent.pid])  # noqa: E731
    _until(read, lambda s: s.processes == 2)
    parent.kill()
    _until(read, lambda s: s.pids == {child_pid})
    os.kill(child_pid, 9)
    sample = _until(read, lambda s: s.processes == 0)
    assert (sample.cpu_percent, sample.memory_bytes) == (None, None)


def test_the_machine_and_its_disk_are_read(tmp_path: Path) -> None:
    reader = HostReader()
    first = reader.read(tmp_path)
    assert first.machine_cpu_percent is None, "a rate needs two readings"
    sample = _until(lambda: reader.read(tmp_path), lambda s: s.machine_cpu_percent is not None)
    assert sample.machine_cpu_percent is not None
    assert 0 <= sample.machine_cpu_percent <= 100
    assert 0 < sample.machine_memory_bytes < sample.machine_memory_total_bytes
    assert sample.disk_free_bytes is not None
    assert sample.disk_total_bytes is not None
    assert 0 < sample.disk_free_bytes <= sample.disk_total_bytes
    assert sample.processes == 0
    assert sample.cpu_percent is None


def test_a_folder_that_is_gone_has_no_disk_figures(tmp_path: Path) -> None:
    sample = HostReader().read(tmp_path / "gone")
    assert (sample.disk_free_bytes, sample.disk_total_bytes) == (None, None)


def test_a_containers_limits_replace_the_machines(tmp_path: Path) -> None:
    files = {"memory.max": "1000000", "memory.current": "700000", "cpu.max": "50000 100000", "cgroup.controllers": ""}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    reader = HostReader(limits=CgroupLimits(root=tmp_path, membership=tmp_path / "none"))
    sample = reader.read(tmp_path)
    assert (sample.machine_memory_bytes, sample.machine_memory_total_bytes) == (700_000, 1_000_000)
    assert sample.cpu_count == 0.5
