"""Small real file systems for tests: made, mounted, filled, cut off from power, and never left behind.

Each disk is an image file behind a loop device, mounted below a test's own folder. That takes root, Linux and `mkfs`;
`find_obstacle` says in one sentence what is missing elsewhere.
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
    """One image with a file system; mounted or not."""

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
        """Mount it, with `options` on top of its own."""
        self.path.mkdir(exist_ok=True)
        words = ",".join(("loop", *self.options, *options))
        _run("mount", "-t", self.driver, "-o", words, str(self.image), str(self.path))

    def unmount(self) -> None:
        """Unmount it as soon as nobody uses it any more; the loop device goes with it."""
        deadline = time.monotonic() + _PATIENCE_S
        while (
            _is_mounted(self.path)
            and subprocess.run(["umount", str(self.path)], capture_output=True, check=False).returncode != 0
        ):
            assert time.monotonic() < deadline, f"{self.path} stays in use"
            time.sleep(0.02)

    def write_back(self) -> None:
        """Write everything that the kernel still holds in memory, as it also does every 5 to 30 seconds."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            ctypes.CDLL(None, use_errno=True).syncfs(descriptor)
        finally:
            os.close(descriptor)

    def cut_power(self) -> None:
        """Stop the file system dead: from now on nothing reaches the image, not even what the journal has in memory."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NOTHING_MORE_TO_THE_JOURNAL))
        finally:
            os.close(descriptor)

    def come_back(self) -> None:
        """After a power cut: mount again what the image had at that moment. The journal is replayed.

        The image is copied before it is unmounted, so that nothing which the kernel writes then can count.
        """
        copy = self.image.with_suffix(".after")
        subprocess.run(["cp", "--sparse=always", str(self.image), str(copy)], check=True)
        self.unmount()
        copy.replace(self.image)
        self.mount()

    def fill(self) -> Path:
        """Fill the disk up to the last byte; the file with which that was done."""
        ballast = self.path / "ballast"
        with ballast.open("ab", buffering=0) as file:
            for _ in range(2):
                self.write_back()  # what was removed is free only then
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
    """A new disk, mounted; whatever happens, neither mount nor loop device nor image is left behind.

    `driver` mounts it where that is not the kernel's own for `kind`.
    """
    # In memory where there is some: the image is the drive, and its speed is not what is tested.
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
            # Lazily: a process of the test that still lives must not keep the mount.
            subprocess.run(["umount", "-l", str(disk.path)], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


@cache
def find_obstacle(
    kind: str = "ext4", mkfs: tuple[str, ...] = (), *, power_cuts: bool = False, driver: str | None = None
) -> str | None:
    """Why such a disk cannot be made on this machine, as one phrase; None when it can."""
    if sys.platform != "linux":
        return "loop devices are Linux's"
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
    """Skip the test, with the reason, where such a disk cannot be made."""
    obstacle = find_obstacle(kind, mkfs, power_cuts=power_cuts, driver=driver)
    if obstacle is not None:
        pytest.skip(f"needs a small disk with {' '.join((kind, *mkfs))}: {obstacle}")


def _is_mounted(path: Path) -> bool:
    """As the kernel says: a file system that was shut down answers no question about itself."""
    return any(line.split()[1] == str(path) for line in Path("/proc/self/mounts").read_text().splitlines())


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
