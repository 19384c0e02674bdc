"""Keeps a process running that copies the run elsewhere, if the run has a mirror. It outlives the supervisor."""

from __future__ import annotations

import logging
import subprocess
import sys

from relight.runs.layout import RunLayout

_LOOK_EVERY_S = 3.0
_LONGEST_WAIT_S = 60.0

_log = logging.getLogger(__name__)


class MirrorKeeper:
    """Starts the process within seconds of the mirror being set, and again if it dies. Times are monotonic seconds."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        self._process: subprocess.Popen[bytes] | None = None
        self._look_at = 0.0
        self._wait_s = _LOOK_EVERY_S
        self._refused: tuple[int, int] | None = None

    def look(self, *, at: float) -> None:
        """Start the process if there should be one. Costs a `stat` now and then; never raises."""
        if at < self._look_at:
            return
        self._look_at = at + _LOOK_EVERY_S
        code = None
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                self._wait_s = _LOOK_EVERY_S
                return
            self._process = None
        try:
            status = self._layout.mirror.stat()
        except OSError:
            return
        mark = (status.st_ino, status.st_mtime_ns)
        if code is not None:
            from relight.mirror.mirroring import REFUSED  # loaded only after an end that should not happen

            self._refused = mark if code == REFUSED else None
        if mark == self._refused:
            return  # until the mirror is set again
        if code is not None:
            self._look_at = at + self._wait_s
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        try:
            # -P: files in the current folder must not shadow our modules.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "relight.mirror", str(self._layout.folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            _log.warning("The process that copies the run elsewhere could not be started: %s", error)
