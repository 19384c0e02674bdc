"""A second kernel with what this machine's kernel may lack: user-mode Linux, with NFS over loopback and FAT.

It is an ordinary process of the host (Debian's package `user-mode-linux`), boots in two seconds, and has the host's
root file system as its own. Killing it is a power cut for NFS server and client at once: their memory is gone.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = Path("/usr/lib/uml/modules")
NFS4, NFS3, VFAT = Path("/mnt/nfs4"), Path("/mnt/nfs3"), Path("/mnt/vfat")
"""Where the second kernel has its file systems."""
_INIT = Path(__file__).with_name("user_mode_linux.sh")
_NEEDED = ("linux.uml", "rpc.nfsd", "rpcbind", "modprobe", "mkfs.ext4", "mkfs.vfat")
_PACKAGES = "user-mode-linux nfs-kernel-server kmod dosfstools"
_MEMORY_MB = 1500


@cache
def find_obstacle() -> str | None:
    """Return why the second kernel cannot run here, as one phrase; None if it can."""
    if sys.platform != "linux":
        return "user-mode Linux runs on Linux"
    if os.geteuid() != 0:
        return "only root may mount its host's root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in _NEEDED if shutil.which(name, path=path) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install {_PACKAGES})"
    return None


def need_foreign_kernel() -> None:
    """Skip the test, with the reason, if the second kernel cannot run here."""
    obstacle = find_obstacle()
    if obstacle is not None:
        pytest.skip(f"needs a second kernel: {obstacle}")


@contextlib.contextmanager
def make_disks() -> Iterator[Path]:
    """Make a folder with the images of the kernel's two disks, new and empty."""
    with tempfile.TemporaryDirectory(prefix="relight-kernel-") as folder:
        for name, megabytes, command in (("a", 256, ["mkfs.ext4", "-q", "-F"]), ("b", 64, ["mkfs.vfat"])):
            image = Path(folder) / name
            with image.open("wb") as file:
                file.truncate(megabytes << 20)
            subprocess.run([*command, str(image)], check=True, capture_output=True)
        modules = Path(folder) / "lib" / "modules"
        modules.parent.mkdir()
        modules.symlink_to(MODULES)
        yield Path(folder)


class ForeignKernel:
    """One boot of the second kernel, with a trial that runs in it."""

    def __init__(self, disks: Path, trial: Sequence[str]) -> None:
        self.lines: list[str] = []
        init = disks / "init"
        words = {"RELIGHT_MODULES": str(disks), "RELIGHT_ROOT": str(ROOT), "RELIGHT_TRIAL": shlex.join(trial)}
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in words.items())
        init.write_text(f"#!/bin/bash\n{exports}. {shlex.quote(str(_INIT))}\n")
        init.chmod(0o755)
        self._process = subprocess.Popen(
            [
                "linux.uml", f"mem={_MEMORY_MB}M", f"ubd0={disks / 'a'}", f"ubd1={disks / 'b'}", "root=/dev/root",
                "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}", "con=null", "con0=fd:0,fd:1", "quiet",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        )  # fmt: skip
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._rest = b""

    def read(self, timeout_s: float) -> bool:
        """Read what it prints within that time. Returns False if it has ended."""
        assert self._process.stdout is not None
        until = time.monotonic() + timeout_s
        while True:
            data = self._process.stdout.read(1 << 16)
            if data == b"":
                return False
            if data is not None:
                *lines, self._rest = (self._rest + data).split(b"\n")
                self.lines += [line.decode(errors="replace").rstrip("\r") for line in lines]
            if time.monotonic() >= until:
                return True
            if data is None:
                time.sleep(0.005)

    def wait_for(self, beginning: str, timeout_s: float = 120.0) -> str:
        """Return the first line with that beginning."""
        deadline = time.monotonic() + timeout_s
        while True:
            alive = self.read(0.01)
            found = next((line for line in self.lines if line.startswith(beginning)), None)
            if found is not None:
                return found
            said = "\n".join(self.lines[-40:])
            assert alive, f"the kernel ended without printing '{beginning}':\n{said}"
            assert time.monotonic() < deadline, f"the kernel did not print '{beginning}' in time:\n{said}"

    def cut_power(self) -> None:
        """Kill it. What it had printed by then is in `lines`."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        while self.read(0.05):
            pass
        self._process.wait()

    def __enter__(self) -> ForeignKernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()
        assert self._process.stdout is not None
        self._process.stdout.close()
