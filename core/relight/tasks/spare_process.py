"""A child process that has imported torch before anybody asks, and then describes one task and ends.

Importing torch takes most of the time of a description: seconds, and many on a busy machine. Each description still
gets a process of its own; only its start happens earlier.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

WAITS_S = 600.0
"""How long a spare process waits for a task before it ends."""
WAIT = "--wait"
"""The only argument of a process that gets its arguments later, as a line of JSON on stdin."""
_LEAST_LEFT_S = 5.0

_lock = threading.Lock()
_spare: subprocess.Popen[bytes] | None = None
_started_s = 0.0
_started_in: object = None


def start_describing(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start `relight.training.describe` in a session of its own. It ends if this process does before it has a task."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "relight.training.describe", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def prepare_spare() -> None:
    """Start a spare process, unless one waits or has failed to start a moment ago."""
    global _spare, _started_s, _started_in
    with _lock:
        if _spare is not None and time.monotonic() - _started_s < WAITS_S / 2:
            return
        _discard(_spare)
        _spare, _started_s, _started_in = start_describing([WAIT]), time.monotonic(), _surroundings()


def take_spare() -> subprocess.Popen[bytes] | None:
    """Return the spare process, which is the caller's from now on; None if there is none."""
    global _spare
    with _lock:
        taken, _spare = _spare, None
        in_time = time.monotonic() - _started_s < WAITS_S - _LEAST_LEFT_S
        if taken is None or (in_time and taken.poll() is None and _started_in == _surroundings()):
            return taken
        _discard(taken)
        return None


def _surroundings() -> object:
    """Return what a process inherits: one that was started elsewhere would import other files."""
    return Path.cwd(), dict(os.environ)


def _discard(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.communicate()
