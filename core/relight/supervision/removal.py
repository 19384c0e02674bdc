"""Whether the folder of a run was removed or moved while it trains: nobody could look at it then, or stop it."""

from __future__ import annotations

import os
from pathlib import Path

from relight.runs.layout import AttemptLayout, RunLayout


class RemovalWatch:
    """Tells that the folder has been gone for some time. `at` is in monotonic seconds.

    Gone is a folder that is not there, or is another one, and one from which all that identifies the run was deleted: a
    `rm -r` beside a training that writes often leaves the folder itself. A single file that is missing is damage.
    """

    PATIENCE_S = 1.0

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        # Held open, so that no other folder can get its number.
        self._descriptor = os.open(layout.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._gone_since: float | None = None

    def is_gone(self, attempt: AttemptLayout, *, at: float) -> bool:
        """Whether the folder has been gone for `PATIENCE_S`."""
        if self._is_there(attempt):
            self._gone_since = None
            return False
        if self._gone_since is None:
            self._gone_since = at
        return at - self._gone_since >= self.PATIENCE_S

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._descriptor)

    def _is_there(self, attempt: AttemptLayout) -> bool:
        ours = os.fstat(self._descriptor)
        try:
            if not os.path.samestat(self._layout.folder.stat(), ours):
                return False
        except FileNotFoundError:
            return False
        except OSError:
            return True  # a network share that does not answer has not lost anything
        return not all(_is_missing(path) for path in (self._layout.record, self._layout.lock, attempt.processes))


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
