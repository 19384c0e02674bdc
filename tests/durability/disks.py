"""Small real file systems for tests, which can be mounted, filled and cut off from power, and are always removed.

Each disk is an image file behind a loop device, mounted in the test's own folder. It needs root, Linux and `mkfs`;
`find_obstacle` names what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, the same number as XFS_IOC_GOINGDOWN
_NOTHING_MORE_TO_THE_JOURNAL = 2  # *_GOING_FLAGS_NOLOGFLUSH
_PATIENCE_S = 60.0
_MEMORY = Path("/dev/shm")
_SMALLEST_MB = {"xfs": 320, "btrfs": 160}


class Disk:
    """An image with a file system, mounted or not."""

    def __init__(
        self,
        image: Path,
        mount_point: Path,
        *,
        options: Sequence[str] = (),
        kind: str = "ext4",
        driver: str | None = None,
    ) -> None:
        self.image = image
        self.path = mount_point
        self.options = tuple(options)
        self.kind = kind
        self.driver = driver or kind

    def mount(self, *options: str) -> None:
        """Mount it with its own options and `options`."""
        self.path.mkdir(exist_ok=True)
        words = ",".join(("loop", *self.options, *options))
        _run("mount", "-t", self.driver, "-o", words, str(self.image), str(self.path))

    def unmount(self) -> None:
        """Unmount it as soon as no process uses it, and free the loop device."""
        deadline = time.monotonic() + _PATIENCE_S
        while (
            _is_mounted(self.path)
            and subprocess.run(["umount", str(self.path)], capture_output=True, check=False).returncode != 0
        ):
            assert time.monotonic() < deadline, f"{self.path} stays in use"
            time.sleep(0.02)

    def write_back(self) -> None:
        """Write everything that the kernel still holds in memory, as it does every 5 to 30 seconds on its own."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            ctypes.CDLL(None, use_errno=True).syncfs(descriptor)
        finally:
            os.close(descriptor)

    def cut_power(self) -> None:
        """Stop the file system at once: nothing reaches the image any more, not even what the journal has in memory."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NOTHING_MORE_TO_THE_JOURNAL))
        finally:
            os.close(descriptor)

    def come_back(self) -> None:
        """Mount the image as it was at the power cut. The journal is replayed.

        The image is copied before it is unmounted, so that later writes of the kernel do not count.
        """
        copy = self.image.with_suffix(".after")
        subprocess.run(["cp", "--sparse=always", str(self.image), str(copy)], check=True)
        self.unmount()
        copy.replace(self.image)
        self.mount()

    def fill(self) -> Path:
        """Fill the disk up to the last byte, and return the file that fills it."""
        ballast = self.path / "ballast"
        with ballast.open("ab", buffering=0) as file:
            for _ in range(2):
                self.write_back()  # space of removed files is free only after that
                for size in (1 << 20, 4096):
                    with contextlib.suppress(OSError):
                        while True:
                            end = file.seek(0, os.SEEK_END)
                            os.posix_fallocate(file.fileno(), end, size)
        return ballast


@contextlib.contextmanager
def make_disk(
    *,
    megabytes: int,
    kind: str = "ext4",
    mkfs: Sequence[str] = (),
    options: Sequence[str] = (),
    driver: str | None = None,
) -> Iterator[Disk]:
    """Make and mount a disk. Mount, loop device and image are removed at the end, whatever happens.

    `driver` mounts it if the kernel has no driver of its own for `kind`.
    """
    # In memory if possible: the image is the drive, and its speed is not what the test is about.
    folder = Path(tempfile.mkdtemp(prefix="relight-disk-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))
    disk = Disk(folder / "image", folder / "disk", options=options, kind=kind, driver=driver)
    try:
        with disk.image.open("wb") as file:
            file.truncate(megabytes << 20)
        quiet = ("-q", "-m", "0") if kind.startswith("ext") else ()
        _run(f"mkfs.{kind}", *quiet, *mkfs, str(disk.image))
        disk.mount()
        yield disk
    finally:
        if _is_mounted(disk.path):
            # Lazily: a process of the test that is still running must not keep the mount.
            subprocess.run(["umount", "-l", str(disk.path)], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


@cache
def find_obstacle(
    kind: str = "ext4", mkfs: tuple[str, ...] = (), *, power_cuts: bool = False, driver: str | None = None
) -> str | None:
    """Return why such a disk cannot be made on this machine, as one phrase; None if it can."""
    if sys.platform != "linux":
        return "loop devices exist only on Linux"
    if os.geteuid() != 0:
        return "only root may mount a file system"
    if shutil.which(f"mkfs.{kind}") is None:
        return f"mkfs.{kind} is not installed"
    if driver is not None and shutil.which(f"mount.{driver}") is None:
        return f"{driver} is not installed"
    try:
        with make_disk(megabytes=_SMALLEST_MB.get(kind, 16), kind=kind, mkfs=mkfs, driver=driver) as disk:
            if power_cuts:
                disk.cut_power()
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return f"it cannot be mounted on a loop device here ({' '.join(said.split()).rpartition('disk: ')[2][:100]})"
    return None


def need_disks(
    kind: str = "ext4", *, mkfs: tuple[str, ...] = (), power_cuts: bool = False, driver: str | None = None
) -> None:
    """Skip the test, with the reason, if such a disk cannot be made."""
    obstacle = find_obstacle(kind, mkfs, power_cuts=power_cuts, driver=driver)
    if obstacle is not None:
        pytest.skip(f"needs a small disk with {' '.join((kind, *mkfs))}: {obstacle}")


def _is_mounted(path: Path) -> bool:
    """Tell from the kernel's list of mounts: a file system that was shut down answers no calls."""
    return any(line.split()[1] == str(path) for line in Path("/proc/self/mounts").read_text().splitlines())


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
