"""What `verify` looks for in the files of a run that are neither records nor checkpoints: one sentence for damage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from relight.checkpoints.file_names import StoreLayout, parse_label_name
from relight.errors import DamagedFile
from relight.metrics.file_format import parse_file_name
from relight.metrics.metric_records import read_records
from relight.runs.json_digest import has_wrong_digest
from relight.runs.layout import RunLayout
from relight.runs.progress import read_progress

Found = tuple[Path, str | None]
"""A file that was read, and what is wrong with it."""

_CHUNK_BYTES = 4 << 20


def check_files(layout: RunLayout) -> Iterator[Found]:
    """Read metrics, progress, environments, labels and exports."""
    for path in _list(layout.metrics):
        if parse_file_name(path.name) is not None:
            yield path, _check_metrics(path)
    for number in layout.list_attempts():
        attempt = layout.attempt(number)
        if attempt.progress.exists():
            yield attempt.progress, _check_progress(attempt.progress)
        if attempt.environment.exists():
            yield attempt.environment, _check_json(attempt.environment)
    for path in _list(StoreLayout(layout.checkpoints).labels):
        if parse_label_name(path.name) is not None:
            yield path, _check_label(path)
    for path in _list(layout.exports):
        if path.suffix == ".json":
            yield from _check_export(path)


def _check_metrics(path: Path) -> str | None:
    """Its header, and that each record has a step and a time; its values have no digest."""
    try:
        records = read_records(path)
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        return str(error)
    except (OSError, ValueError) as error:
        return f"It cannot be read: {error}."
    with np.errstate(invalid="ignore"):
        strange = (records.steps < 0) | ~np.isfinite(records.times) | (records.times <= 0)
    if not strange.any():
        return None
    first = int(np.flatnonzero(strange)[0])
    return f"Record {first + 1} of {len(records.steps)} has no step and time that can be: its curve is wrong there."


def _check_progress(path: Path) -> str | None:
    if read_progress(path) is not None:
        return None
    try:
        # A trainer that was killed as it began has left it empty.
        return None if path.stat().st_size == 0 else "It is not a record of a step: its checksum is wrong."
    except OSError as error:
        return f"It cannot be read: {error.strerror}."


def _check_json(path: Path) -> str | None:
    try:
        data = path.read_bytes()
        msgspec.json.decode(data, type=dict[str, object])
    except OSError as error:
        return f"It cannot be read: {error.strerror}."
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return f"It is not a JSON object: {str(error).rstrip('.')}."
    return "Its digest is not that of what is in it." if has_wrong_digest(data) else None


def _check_label(path: Path) -> str | None:
    try:
        return None if path.is_file() and path.stat().st_size == 0 else "A label must be an empty file; this is not."
    except OSError as error:
        return f"It cannot be read: {error.strerror}."


def _check_export(card: Path) -> Iterator[Found]:
    """A card, and the file beside it against the SHA-256 that the card says. Foreign JSON is passed over."""
    problem = _check_json(card)
    exported = card.with_suffix("")
    if problem is not None:
        if exported.exists():
            yield card, problem
        return
    said = msgspec.json.decode(card.read_bytes(), type=dict[str, object]).get("sha256")
    if not isinstance(said, str):
        return
    yield card, None
    if exported.exists():  # else somebody has taken it
        try:
            right = _hash(exported) == said
        except OSError as error:
            yield exported, f"It cannot be read: {error.strerror}."
        else:
            yield exported, None if right else f"Its SHA-256 is not the one that {card.name} says. Export it again."


def _hash(path: Path) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
    return sha256.hexdigest()


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
