"""What a store holds, as values: the rows that command line, dashboard, retention and resume all work on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from relight.checkpoints.file_names import CheckpointName, StoreLayout, parse_manifest_name
from relight.checkpoints.file_operations import SYSTEM
from relight.checkpoints.snapshot_header import SnapshotFacts

BEST = "best"


class CheckpointInfo(SnapshotFacts, frozen=True, kw_only=True):
    """One checkpoint as its manifest describes it."""

    name: CheckpointName
    path: Path
    """The manifest."""
    metrics: dict[str, float]
    bytes: int
    """All tensors of the checkpoint, shared ones included."""
    new_bytes: int
    """Size of what this checkpoint added to the disk: its manifest and its own pack."""
    packs: tuple[str, ...] = ()
    """File names of all packs that it needs, its own included."""
    verified: bool = False
    labels: tuple[str, ...] = ()

    @property
    def sequence(self) -> int:
        """Its place in the order in which the run's checkpoints were made."""
        return self.name.sequence


@dataclass(frozen=True)
class DamagedEntry:
    """A file of the store that is not what it should be, and one sentence that says how."""

    path: Path
    reason: str
    later_version: bool = False
    """Not damaged at all, but written by a later version of Relight."""


@dataclass(frozen=True)
class CheckpointListing:
    """Everything in a store: `checkpoints` from the oldest to the newest, and what could not be read."""

    checkpoints: list[CheckpointInfo] = field(default_factory=list)
    damaged: list[DamagedEntry] = field(default_factory=list)


def find_best(checkpoints: Iterable[CheckpointInfo], *, higher_is_better: bool) -> CheckpointInfo | None:
    """The checkpoint with the best finite score; of equals the earliest. None when nothing was scored."""
    best: CheckpointInfo | None = None
    for info in sorted(checkpoints, key=lambda info: info.name):
        if info.score is None or not math.isfinite(info.score):
            continue
        if best is None or best.score is None or (info.score - best.score) * (1 if higher_is_better else -1) > 0:
            best = info
    return best


def with_best_label(checkpoints: Iterable[CheckpointInfo], *, higher_is_better: bool) -> list[CheckpointInfo]:
    """The same checkpoints, the best one labelled so. `best` is computed, never stored."""
    listed = list(checkpoints)
    best = find_best(listed, higher_is_better=higher_is_better)
    return [replace(info, labels=(BEST, *info.labels)) if info is best else info for info in listed]


def newest_durable(folder: Path) -> tuple[int, int] | None:
    """(sequence, step) of the newest checkpoint of the store in `folder`, from file names alone; None without one."""
    try:
        file_names = SYSTEM.list_folder(StoreLayout(folder).manifests)
    except NotADirectoryError:
        return None
    names = [name for file_name in file_names if (name := parse_manifest_name(file_name)) is not None]
    newest = max(names, default=None)
    return None if newest is None else (newest.sequence, newest.step)
