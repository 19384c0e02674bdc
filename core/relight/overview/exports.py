"""The exported weights in a run's folder, each with the facts of its card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from relight.checkpoints.export import FORMATS


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
        paths = [path for path in folder.iterdir() if path.suffix.removeprefix(".") in FORMATS and path.is_file()]
    except OSError:
        return []
    found = [file for path in paths if (file := _read_export(path)) is not None]
    return sorted(found, key=lambda file: -file.time_s)


def _read_export(path: Path) -> ExportFile | None:
    try:
        status = path.stat()
    except OSError:
        return None
    card: dict[str, Any] = {}
    try:
        decoded = msgspec.json.decode(Path(f"{path}.json").read_bytes())
        card = decoded if isinstance(decoded, dict) else {}
    except (OSError, msgspec.DecodeError):
        pass
    step, sha256 = card.get("step"), card.get("sha256")
    return ExportFile(
        name=path.name,
        path=path,
        bytes=status.st_size,
        time_s=status.st_mtime,
        step=step if isinstance(step, int) else None,
        sha256=sha256 if isinstance(sha256, str) else None,
    )
