"""Runs the real recovery on every disk that a crash may leave, and counts the broken promises."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relight.checkpoints.deletion import sweep
from relight.checkpoints.file_operations import FileOperations
from relight.checkpoints.recovery import find_newest_good
from relight.checkpoints.store import CheckpointStore
from tests.checkpoints.simulator.disk import MOST_EXHAUSTIVE, Disk, acknowledged, crashes
from tests.checkpoints.simulator.log import Acknowledge, Entry
from tests.checkpoints.snapshots import make_snapshot

Recover = Callable[[Path], tuple[int, str] | None]
"""Recovers from a folder: returns (step, digest of the state), or None. An exception counts as a failure."""


@dataclass
class Verdict:
    """The number of different disks, and what went wrong on them."""

    disks: int = 0
    nothing: int = 0
    older: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def broken(self) -> int:
        """The number of disks on which a promise was broken."""
        return self.nothing + self.older + self.wrong


def try_all(
    log: Sequence[Entry],
    folder: Path,
    *,
    journaled: bool,
    existed: set[tuple[int, str]],
    recover: Recover,
    stop_at_first: bool = False,
    exhaustive: int = MOST_EXHAUSTIVE,
) -> Verdict:
    """Recover from every crash of `log`. `existed` are all states that were ever handed to the writer."""
    verdict = Verdict()
    seen: set[tuple[bytes, int]] = set()
    for crash in crashes(log, journaled=journaled, exhaustive=exhaustive):
        promises = acknowledged(log, crash.done)
        promised = max((promise.step for promise in promises), default=-1)
        for disk in crash.disks:
            key = (_identify(disk), len(promises))
            if key in seen:
                continue
            seen.add(key)
            verdict.disks += 1
            problem = _try_one(disk, folder, promised, promises, existed, recover)
            if problem is None:
                continue
            setattr(verdict, problem, getattr(verdict, problem) + 1)
            if len(verdict.examples) < 5:
                verdict.examples.append(f"after {crash.done} ({log[crash.done - 1]}): {problem}: {sorted(disk)}"[:600])
            if stop_at_first:
                return verdict
    return verdict


def _try_one(
    disk: Disk,
    folder: Path,
    promised: int,
    promises: list[Acknowledge],
    existed: set[tuple[int, str]],
    recover: Recover,
) -> str | None:
    materialize(disk, folder)
    try:
        found = recover(folder)
    except Exception:
        return "nothing" if promised >= 0 else None
    if found is None:
        return "nothing" if promised >= 0 else None
    if found not in existed:
        return "wrong"
    if found[0] < promised:
        return "older"
    for promise in promises:
        if promise.pinned and not _has_pinned(folder, promise):
            return "older"
    return None


def _has_pinned(folder: Path, promise: Acknowledge) -> bool:
    store = CheckpointStore(folder)
    return any(
        info.step == promise.step and "pinned" in info.labels and not store.check(info)
        for info in store.list().checkpoints
    )


def materialize(disk: Disk, folder: Path) -> None:
    """Make `folder` look like `disk`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted(disk):
        content = disk[path]
        if content is None:
            os.mkdir(f"{folder}/{path}")  # noqa: PTH102 - called a million times
        else:
            with open(f"{folder}/{path}", "wb") as file:  # noqa: PTH123
                file.write(content)


class Quick(FileOperations):
    """Skips syncs: the recovery does not crash here, so it need not wait for a disk."""

    def sync(self, file: int) -> None:
        pass

    def forget_cached(self, file: int) -> None:
        pass


class StoreRecovery:
    """Recovers as Relight does after a crash: sweeps, takes the newest good checkpoint, and sometimes saves another."""

    def __init__(self, *, save_every: int = 9) -> None:
        self._save_every = save_every
        self._count = 0

    def __call__(self, folder: Path) -> tuple[int, str] | None:
        """Return the step and state digest of what was recovered."""
        store = CheckpointStore(folder, operations=Quick())
        sweep(store)
        # No older one may be incomplete either: a manifest is written after its pack, and deleted before it.
        assert store.list().damaged == []
        good, _ = find_newest_good(store)
        if good is None:
            return None
        found = (good.step, store.digest(good))
        self._count += 1
        if self._count % self._save_every == 0:
            after = store.commit(*make_snapshot(good.step + 1000, frozen=40, trained=10))
            newest, _ = find_newest_good(store)
            assert newest is not None
            assert newest.name == after.name
            assert store.check(store.find(good.step)) == []
        return found


def _identify(disk: Disk) -> bytes:
    hasher = hashlib.blake2b(digest_size=16)
    for path in sorted(disk):
        content = disk[path]
        hasher.update(f"{path}\0{-1 if content is None else len(content)}\0".encode())
        hasher.update(content or b"")
    return hasher.digest()
