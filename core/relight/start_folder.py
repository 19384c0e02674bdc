"""The folder in which this process was started, read when Relight is imported: a script may go elsewhere later."""

from __future__ import annotations

import os


def _read_folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  pathlib would cost a start of the command line
    except OSError:  # it has been removed
        return None


START_FOLDER = _read_folder()
"""Its absolute path; None if it no longer existed."""
