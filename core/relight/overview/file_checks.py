"""Checks the files of a run that are neither records nor checkpoints; damage becomes one sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from relight.checkpoints.file_names import StoreLayout, parse_label_name
from relight.errors import DamagedFile
from relight.metrics.file_format import metric_file_name, parse_file_name
from relight.metrics.metric_records import read_records
from relight.runs.json_digest import has_wrong_digest
from relight.runs.layout import RunLayout
from relight.runs.progress import read_progress

Found = tuple[Path, str | None]
"""A file that was read, and what is wrong with it (None: nothing)."""

_CHUNK_BYTES = 4 << 20


def check_files(layout: RunLayout) -> Iterator[Found]:
    """Check metrics, progress, environments, labels and exports."""
    for path in _list(layout.metrics):
        name = parse_file_name(path.name)
        if name is not None:
            yield path, _check_metrics(path, part=name.part)
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


def _check_metrics(path: Path, *, part: int) -> str | None:
    """Check the header against the file name, and the step and time of each record; values have no digest."""
    try:
        records = read_records(path)
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        return str(error)
    except (OSError, ValueError) as error:
        return f"It cannot be read: {error}."
    header = records.header
    if metric_file_name(header.stream, attempt=header.attempt, part=part) != path.name:
        return "Its header names another stream or attempt than its file name, so its curves have the wrong names."
    with np.errstate(invalid="ignore"):
        strange = (records.steps < 0) | ~np.isfinite(records.times) | (records.times <= 0)
    if not strange.any():
        return None
    first = int(np.flatnonzero(strange)[0])
    return f"Record {first + 1} of {len(records.steps)} has an impossible step or time: the curve is wrong there."


def _check_progress(path: Path) -> str | None:
    if read_progress(path) is not None:
        return None
    try:
        # A trainer that was killed as it started leaves it empty.
        return None if path.stat().st_size == 0 else "Its checksum is wrong."
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
    return "Its content does not match its digest." if has_wrong_digest(data) else None


def _check_label(path: Path) -> str | None:
    try:
        return None if path.is_file() and path.stat().st_size == 0 else "A label must be an empty file; this is not."
    except OSError as error:
        return f"It cannot be read: {error.strerror}."


def _check_export(card: Path) -> Iterator[Found]:
    """Check a card, and the exported file against the card's SHA-256. JSON files that are not cards are skipped."""
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
    if exported.exists():  # the user may have moved it
        try:
            right = _hash(exported) == said
        except OSError as error:
            yield exported, f"It cannot be read: {error.strerror}."
        else:
            yield exported, None if right else f"Its SHA-256 differs from the one in {card.name}. Export it again."


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
