"""Noticing that a run's folder was removed or moved during training: such a run can no longer be seen or stopped."""

from __future__ import annotations

import os
from pathlib import Path

from relight.runs.layout import AttemptLayout, RunLayout


class RemovalWatch:
    """Watches one run's folder. Times are monotonic seconds.

    The folder counts as gone when it is missing, when another folder has taken its place, or when all files that
    identify the run were deleted: `rm -r` often leaves the folder itself while a training writes to it. One missing
    file is damage, not removal.
    """

    PATIENCE_S = 1.0

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        # Held open, so that no other folder can get its inode number.
        self._descriptor = os.open(layout.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._gone_since: float | None = None

    def is_gone(self, attempt: AttemptLayout, *, at: float) -> bool:
        """Return whether the folder has been gone for `PATIENCE_S`."""
        if self._is_there(attempt):
            self._gone_since = None
            return False
        if self._gone_since is None:
            self._gone_since = at
        return at - self._gone_since >= self.PATIENCE_S

    def _is_there(self, attempt: AttemptLayout) -> bool:
        ours = os.fstat(self._descriptor)
        try:
            if not os.path.samestat(self._layout.folder.stat(), ours):
                return False
        except FileNotFoundError:
            return False
        except OSError:
            return True  # a network share that does not answer has not removed anything
        return not all(_is_missing(path) for path in (self._layout.record, self._layout.lock, attempt.processes))


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
