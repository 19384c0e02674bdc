"""Runs a command with a time limit, and leaves none of the processes running that it started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_LEAVING_S = 5.0
"""How long processes that a command started may outlive it."""
_DYING_S = 5.0
"""How long a killed process may take to go: one that hangs in a driver never does."""
_SET_CHILD_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int | None
    """None if the command was ended at its limit."""
    seconds: float
    left: tuple[str, ...]
    """The processes that were killed, as "name (pid)": they outlived the command, or ran when its time was over."""


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends (Linux only). Call it once, first."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run_limited(
    command: Sequence[str], *, limit_s: float, log: Path, folder: Path, environment: Mapping[str, str]
) -> Outcome:
    """Run a command in `folder` for up to `limit_s` seconds, with its output in `log`. Needs `adopt_orphans`."""
    begun, code = time.monotonic(), None
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        code = _wait(process, limit_s)
    finally:  # an interruption too leaves nothing running
        seconds = time.monotonic() - begun
        left = _end_processes(grace_s=0.0 if code is None else _LEAVING_S)
    return Outcome(code, seconds, left)


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    end = time.monotonic() + limit_s
    while (left_s := end - time.monotonic()) > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(min(0.2, left_s))
        _reap(but=process.pid)
    return None


def _end_processes(*, grace_s: float) -> tuple[str, ...]:
    """Wait up to `grace_s` seconds for every process below this one to end, then kill the rest. Return their names."""
    killed: dict[int, str] = {}
    grace_ends = time.monotonic() + grace_s
    while True:
        _reap()
        alive = [child for child in psutil.Process().children(recursive=True) if _is_alive(child)]
        if not alive or time.monotonic() > grace_ends + _DYING_S:
            return tuple(killed.values())
        if time.monotonic() >= grace_ends:
            for child in alive:
                with contextlib.suppress(psutil.Error):
                    killed.setdefault(child.pid, f"{child.name()} ({child.pid})")
                    child.kill()
        time.sleep(0.05)


def _reap(*, but: int | None = None) -> None:
    """Collect the adopted processes that have ended, so that no zombies stay."""
    for child in psutil.Process().children():
        if child.pid != but and not _is_alive(child):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, os.WNOHANG)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
