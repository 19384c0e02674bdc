"""Checks the files of a run that are neither records nor checkpoints; damage becomes one sentence."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from relight.checkpoints.file_names import StoreLayout, parse_label_name
from relight.errors import DamagedFile
from relight.metrics.file_format import metric_file_name, parse_file_name
from relight.metrics.metric_records import read_records
from relight.regular_file import open_regular, read_regular
from relight.runs.layout import RunLayout
from relight.runs.log import read_log_tail
from relight.runs.progress import read_progress
from relight.runs.record_file import read_json_object

Found = tuple[Path, str | None]
"""A file that was read, and what is wrong with it (None: nothing)."""

_CHUNK_BYTES = 4 << 20


def check_files(layout: RunLayout, attempts: Iterable[int]) -> Iterator[Found]:
    """Check metrics, labels and exports, and the progress, environment and log of each attempt."""
    for number in attempts:
        attempt = layout.attempt(number)
        for path, check in ((attempt.progress, _check_progress), (attempt.environment, _check_json)):
            if os.path.lexists(path):
                yield path, check(path)
        problem = _check_log(attempt.log)
        if problem is not None:  # its text is not checked
            yield attempt.log, problem
    labels = StoreLayout(layout.checkpoints).labels
    for folder in (layout.metrics, labels, layout.exports):
        try:
            paths = sorted(folder.iterdir())
        except FileNotFoundError:
            continue
        except OSError as error:
            yield folder, f"It cannot be read: {error.strerror}."
            continue
        for path in paths:
            if folder == layout.metrics and (name := parse_file_name(path.name)) is not None:
                yield path, _check_metrics(path, part=name.part)
            elif folder == labels and parse_label_name(path.name) is not None:
                yield path, _check_label(path)
            elif folder == layout.exports and path.suffix == ".json":
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
        return "Its checksum is wrong." if read_regular(path) else None
    except OSError as error:
        return f"It cannot be read: {error.strerror}."


def _check_log(path: Path) -> str | None:
    try:
        read_log_tail(path, max_bytes=1)
    except DamagedFile as error:
        return str(error)
    return None


def _check_json(path: Path) -> str | None:
    try:
        read_json_object(path)
    except FileNotFoundError:
        return None  # removed this instant
    except DamagedFile as error:
        return str(error)
    return None


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
        if os.path.lexists(exported):
            yield card, problem
        return
    facts = read_json_object(card)
    said, size = facts.get("sha256"), facts.get("bytes")
    if not isinstance(said, str):
        return
    yield card, None
    if os.path.lexists(exported):  # the user may have moved it
        try:
            right = (size is None or exported.lstat().st_size == size) and _hash(exported) == said
        except OSError as error:
            yield exported, f"It cannot be read: {error.strerror}."
        else:
            yield exported, None if right else f"Its SHA-256 differs from the one in {card.name}. Export it again."


def _hash(path: Path) -> str:
    sha256 = hashlib.sha256()
    with open(open_regular(path), "rb") as file:  # noqa: PTH123  a descriptor
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
    return sha256.hexdigest()
