"""Which files of a run's folder are copied besides its checkpoints, and which names a copy may have.

A copy that is fetched was made by somebody else: a name that is not one of these is never written anywhere, and each
kind of file has a largest size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from relight.checkpoints.file_names import parse_label_name, parse_manifest_name, parse_pack_name
from relight.checkpoints.labels import VERIFIED
from relight.metrics.file_format import parse_file_name
from relight.metrics.metric_file import MOST_BYTES as METRIC_BYTES
from relight.regular_file import SMALL_BYTES
from relight.runs.layout import RunLayout

RECORD = "run.json"
FORMAT = "checkpoints/format.json"
MANIFESTS = "checkpoints/manifests"
PACKS = "checkpoints/packs"
LABELS = "checkpoints/labels"
LOG_BYTES = 16 << 20
"""Of a longer log, the end is copied."""
MANIFEST_BYTES = 1 << 30
MOST_FILES = 200_000
_OF_RUN = (RECORD, "about.json")
_START = "start.json"
_OF_ATTEMPT = (
    *(_START, "processes.json", "script.json", "writer.json", "environment.json", "progress.bin", "witness.bin"),
    *("resume_check.json", "saving.json", "outcome.json", "exit.json", "log.txt", "supervisor.txt"),
    *("rank.json", "ranks_failure.json"),
)
_RANK = re.compile(r"ranks/[1-9][0-9]{0,5}/")
_ATTEMPT = re.compile(r"attempts/((?!0000)[0-9]{4}|[1-9][0-9]{4,8})/([a-z_]+\.[a-z]+)")


def list_files(layout: RunLayout) -> Iterator[str]:
    """Return the relative paths of the records, logs and metric files that there may be; some are missing."""
    yield from _OF_RUN
    yield FORMAT
    attempts = layout.list_attempts()
    for rank in sorted({rank for number in attempts for rank in layout.list_ranks(number)} | {0}):
        own = layout.of_rank(rank)
        within = f"ranks/{rank}/" if rank else ""
        for number in own.list_attempts():
            for name in _OF_ATTEMPT:
                yield within + attempt_path(number, name)
        try:
            names = sorted(path.name for path in own.metrics.iterdir())
        except OSError:
            continue
        yield from (f"{within}metrics/{name}" for name in names if most_bytes(f"metrics/{name}"))


def attempt_path(number: int, name: str = _START) -> str:
    """Return the relative path of a file of an attempt; without `name`, that of its start record."""
    return f"attempts/{number:04d}/{name}"


def parse_start(path: str) -> int | None:
    """Return the attempt of the run whose start record has this relative path; None for another file."""
    match = _ATTEMPT.fullmatch(path)
    return int(match[1]) if match is not None and match[2] == _START else None


def attempt_of(path: str) -> int | None:
    """Return the attempt to which a record, log or metric file belongs; None for the run itself."""
    of_rank = _RANK.match(path)
    path = path if of_rank is None else path[of_rank.end() :]
    match = _ATTEMPT.fullmatch(path)
    if match is not None:
        return int(match[1])
    metric = parse_file_name(path.removeprefix("metrics/")) if path.startswith("metrics/") else None
    return metric.attempt if metric is not None else None


def most_bytes(path: str) -> int | None:
    """Return the largest size that a file of this relative path may have; None if it is not a file of a run.

    Packs have the size that a manifest says.
    """
    if not path.isprintable() or len(path) > 300:
        return None
    of_rank = _RANK.match(path)
    if of_rank is not None:
        path = path[of_rank.end() :]
        return most_bytes(path) if path.startswith(("attempts/", "metrics/")) else None
    folder, _, name = path.rpartition("/")
    if path in (*_OF_RUN, FORMAT):
        return SMALL_BYTES
    match = _ATTEMPT.fullmatch(path)
    if match is not None:
        return (LOG_BYTES + (1 << 16) if name.endswith(".txt") else SMALL_BYTES) if match[2] in _OF_ATTEMPT else None
    if folder == "metrics":
        return METRIC_BYTES if parse_file_name(name) is not None else None
    if folder == MANIFESTS:
        return MANIFEST_BYTES if parse_manifest_name(name) is not None else None
    if folder == PACKS:
        return 1 << 50 if parse_pack_name(name) is not None else None
    if folder == LABELS:
        label = parse_label_name(name)
        return 0 if label is not None and label[1] != VERIFIED else None
    return None
