"""Power cuts on a real ext4: shut down without writing its journal while a checkpoint is saved at every step.

Needs root, mkfs.ext4 and a loop device; skipped with a reason elsewhere. `RELIGHT_POWER_CUTS=100` for more.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relight.checkpoints.retention import RetentionPolicy
from relight.checkpoints.store import CheckpointStore
from tests.checkpoints.snapshots import make_snapshot

ROOT = Path(__file__).parents[2]
SHUTDOWN = 0x8004587D
WITHOUT_JOURNAL = 2
CUTS = int(os.environ.get("RELIGHT_POWER_CUTS", "4"))


def save_forever(folder: Path, first: int) -> None:
    """Save at every step, with verification and retention as the writer does it; say what is durable."""
    store = CheckpointStore(folder)
    for step in range(first, first + 10_000):
        info = store.commit(*make_snapshot(step, frozen=30_000, trained=20_000))
        os.write(1, f"durable {step}\n".encode())
        if not store.check(info, from_disk=True):
            store.mark_verified(info)
        store.apply_retention(store.plan_retention(RetentionPolicy(best=())))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    if os.geteuid() != 0 or sys.platform != "linux" or shutil.which("mkfs.ext4") is None:
        pytest.skip("power cuts need root on Linux, and mkfs.ext4")
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    return image


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    point = image.parent / "mounted"
    point.mkdir(exist_ok=True)
    command = ["mount", "-o", "loop,commit=1", str(image), str(point)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("an ext4 image cannot be mounted here")
    try:
        yield point
    finally:
        deadline = time.monotonic() + 30
        while subprocess.run(["umount", str(point)], capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < deadline, "it cannot be unmounted"
            time.sleep(0.02)


def cut_power(point: Path) -> None:
    folder = os.open(point, os.O_RDONLY)
    try:
        fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", WITHOUT_JOURNAL))
    finally:
        os.close(folder)


@pytest.mark.processes
def test_a_power_cut_never_costs_a_checkpoint_that_was_called_durable(image: Path) -> None:
    chance = random.Random(0)
    first = 1
    for _ in range(CUTS):
        with mounted(image) as point:
            saver = subprocess.Popen(
                [sys.executable, "-m", "tests.checkpoints.test_power_cuts", str(point / "checkpoints"), str(first)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert saver.stdout is not None
            said = [saver.stdout.readline()]
            time.sleep(chance.random() * 0.3)
            cut_power(point)
            saver.kill()
            said += saver.communicate()[0].splitlines()
        acknowledged = max(int(line.split()[1]) for line in said if line.strip())
        with mounted(image) as point:
            store = CheckpointStore(point / "checkpoints")
            good, passed = store.newest_good(quarantine=False)
            assert good is not None
            assert list(passed) == []
            assert good.step >= acknowledged
            header, buffers = make_snapshot(good.step, frozen=30_000, trained=20_000)
            with store.open(good) as reader:
                assert [reader.read(spec.name) for spec in header.tensors] == buffers
            store.sweep()
            first = good.step + 1


if __name__ == "__main__":
    save_forever(Path(sys.argv[1]), int(sys.argv[2]))
