"""The exported weights in a run's folder, each with the facts of its card."""

from __future__ import annotations

import contextlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relight.checkpoints.export import FORMATS
from relight.errors import DamagedFile
from relight.runs.record_file import read_json_object


@dataclass(frozen=True)
class ExportFile:
    """One exported file."""

    name: str
    path: Path
    bytes: int
    time_s: float
    step: int | None = None
    """From the card, like `sha256`: None when the card is missing or damaged."""
    sha256: str | None = None


def list_exports(folder: Path) -> list[ExportFile]:
    """List the finished exports in a run's `exports` folder, newest first."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix.removeprefix(".") in FORMATS]
    except OSError:
        return []
    found = [file for path in paths if (file := _read_export(path)) is not None]
    return sorted(found, key=lambda file: -file.time_s)


def _read_export(path: Path) -> ExportFile | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):  # the dashboard's downloads follow no links either
        return None
    card: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, DamagedFile):
        card = read_json_object(Path(f"{path}.json"))
    step, sha256 = card.get("step"), card.get("sha256")
    return ExportFile(
        name=path.name,
        path=path,
        bytes=status.st_size,
        time_s=status.st_mtime,
        step=step if isinstance(step, int) else None,
        sha256=sha256 if isinstance(sha256, str) else None,
    )
