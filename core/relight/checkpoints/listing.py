"""Checkpoints as plain values, for the command line, the dashboard, the retention and a resume."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from relight.checkpoints.file_names import CheckpointName, StoreLayout, parse_manifest_name
from relight.checkpoints.file_operations import SYSTEM
from relight.checkpoints.snapshot_header import SnapshotFacts

BEST = "best"


class CheckpointInfo(SnapshotFacts, frozen=True, kw_only=True):
    """One checkpoint, as its manifest describes it."""

    name: CheckpointName
    path: Path
    """Path of the manifest."""
    metrics: dict[str, float]
    bytes: int
    """Size of all tensors of the checkpoint, shared ones included."""
    new_bytes: int
    """What this checkpoint added to the disk: its manifest and its own packs."""
    packs: tuple[str, ...] = ()
    """File names of all packs that it needs, its own included."""
    verified: bool = False
    labels: tuple[str, ...] = ()

    @property
    def sequence(self) -> int:
        """Its number in the order in which the run's checkpoints were made."""
        return self.name.sequence

    def list_facts(self) -> dict[str, Any]:
        """Return the checkpoint as `checkpoints --json` prints it; the keys are a contract."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "sequence": self.sequence,
            "reason": self.reason,
            "labels": list(self.labels),
            "metrics": self.metrics,
            "score": self.score,
            "bytes": self.bytes,
            "new_bytes": self.new_bytes,
            "time": self.time_s,
            "verified": self.verified,
            "attempt": self.attempt,
            "path": str(self.path),
        }


@dataclass(frozen=True)
class DamagedEntry:
    """A damaged file of the store, with one sentence that says what is wrong."""

    path: Path
    reason: str
    later_version: bool = False
    """It is not damaged: a later version of Relight wrote it."""


@dataclass(frozen=True)
class CheckpointListing:
    """Everything in a store: its checkpoints from the oldest to the newest, and what could not be read."""

    checkpoints: list[CheckpointInfo] = field(default_factory=list)
    damaged: list[DamagedEntry] = field(default_factory=list)


def find_best(checkpoints: Iterable[CheckpointInfo], *, higher_is_better: bool) -> CheckpointInfo | None:
    """Return the checkpoint with the best finite score, the earliest of equal ones; None if none has a score."""
    best: CheckpointInfo | None = None
    for info in sorted(checkpoints, key=lambda info: info.name):
        if info.score is None or not math.isfinite(info.score):
            continue
        if best is None or best.score is None or (info.score - best.score) * (1 if higher_is_better else -1) > 0:
            best = info
    return best


def with_best_label(checkpoints: Iterable[CheckpointInfo], *, higher_is_better: bool) -> list[CheckpointInfo]:
    """Return the same checkpoints, the best one with the label `best`, which is computed and never stored."""
    listed = list(checkpoints)
    best = find_best(listed, higher_is_better=higher_is_better)
    return [replace(info, labels=(BEST, *info.labels)) if info is best else info for info in listed]


def newest_durable(folder: Path) -> tuple[int, int] | None:
    """Return (sequence, step) of the newest checkpoint in a store, from file names alone; None if there is none."""
    try:
        file_names = SYSTEM.list_folder(StoreLayout(folder).manifests)
    except NotADirectoryError:
        return None
    names = [name for file_name in file_names if (name := parse_manifest_name(file_name)) is not None]
    newest = max(names, default=None)
    return None if newest is None else (newest.sequence, newest.step)
