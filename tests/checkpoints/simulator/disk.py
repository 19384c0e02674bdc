"""Builds the disks that a crash may leave: one for every crash point and every set of unsynced effects that survive.

There are two models. The worst case is what POSIX allows: each half of a write and each entry of a folder survives or
not, independent of what came before it, and a rename between folders may leave both names or none. The journaled model
is like ext4: names change in order, and any sync commits all earlier changes of names. But unsynced bytes may be lost
although later names survive.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.checkpoints.simulator.log import (
    Acknowledge,
    Create,
    Entry,
    Extend,
    MakeFolder,
    Remove,
    Rename,
    Sync,
    SyncFolder,
    Write,
)

FOLDER = 0
"""The inode number that stands for a folder."""

MOST_EXHAUSTIVE = 9
"""With up to this many uncovered effects every subset is tried (512 of them); with more, a sample."""
SAMPLES = 60


@dataclass(frozen=True)
class SetName:
    """From now on the entry `path` refers to `inode`. None removes the entry."""

    path: str
    inode: int | None
    order: int


@dataclass(frozen=True)
class SetBytes:
    """Bytes of an inode, or its length if `data` is None."""

    inode: int
    offset: int
    data: bytes | None
    order: int


Effect = SetName | SetBytes
Disk = dict[str, bytes | None]
"""Contents by path; None is a folder."""


@dataclass
class Crash:
    """A crash after `done` entries of the log."""

    done: int
    disks: Iterator[Disk]


def crashes(
    log: Sequence[Entry],
    *,
    journaled: bool,
    exhaustive: int = MOST_EXHAUSTIVE,
    noise: Sequence[str] = ("tmp", "labels"),
) -> Iterator[Crash]:
    """Yield every crash point with the disks that it may leave. For the folders in `noise`, only sample the choices."""
    durable: list[Effect] = []
    pending: list[Effect] = []
    inodes: dict[str, int] = {}
    for done in range(len(log) + 1):
        if done:
            entry = log[done - 1]
            pending += _effects(entry, inodes, done)
            survivors = [effect for effect in pending if _is_covered(effect, entry, journaled=journaled)]
            durable += survivors
            pending = [effect for effect in pending if effect not in survivors]
        yield Crash(done, _disks(list(durable), list(pending), journaled, exhaustive, noise))


def _effects(entry: Entry, inodes: dict[str, int], order: int) -> list[Effect]:
    if isinstance(entry, MakeFolder):
        return [SetName(entry.path, FOLDER, order)]
    if isinstance(entry, Create):
        inodes[entry.path] = entry.inode
        return [SetName(entry.path, entry.inode, order)]
    if isinstance(entry, Extend):
        return [SetBytes(entry.inode, entry.size, None, order)]
    if isinstance(entry, Write):
        return [SetBytes(entry.inode, entry.offset, entry.data, order)]
    if isinstance(entry, Rename):
        inode = inodes.pop(entry.source)
        inodes[entry.target] = inode
        return [SetName(entry.target, inode, order), SetName(entry.source, None, order)]
    if isinstance(entry, Remove):
        inodes.pop(entry.path)
        return [SetName(entry.path, None, order)]
    return []


def _is_covered(effect: Effect, entry: Entry, *, journaled: bool) -> bool:
    if isinstance(effect, SetBytes):
        return isinstance(entry, Sync) and entry.inode == effect.inode
    if journaled:
        return isinstance(entry, (Sync, SyncFolder))
    return isinstance(entry, SyncFolder) and parent_of(effect.path) == entry.path


def _disks(
    durable: list[Effect], pending: list[Effect], journaled: bool, exhaustive: int, noise: Sequence[str]
) -> Iterator[Disk]:
    if journaled:
        names = sorted((e for e in pending if isinstance(e, SetName)), key=lambda effect: effect.order)
        data = [e for e in pending if isinstance(e, SetBytes)]
        orders = sorted({effect.order for effect in names})
        for kept in range(len(orders) + 1):
            prefix = [effect for effect in names if effect.order in orders[:kept]]
            for subset in _subsets(data, exhaustive):
                yield _apply([*durable, *prefix, *subset])
        return
    clear = [e for e in pending if not (isinstance(e, SetName) and parent_of(e.path) in noise)]
    noisy = [e for e in pending if e not in clear]
    for subset in _subsets(clear, exhaustive):
        for extra in (noisy, [], [e for e in noisy if random.Random(str(e)).random() < 0.5]):
            yield _apply([*durable, *subset, *extra])


def _subsets(effects: list[Effect], exhaustive: int) -> Iterator[list[Effect]]:
    if len(effects) <= exhaustive:
        for chosen in itertools.product((True, False), repeat=len(effects)):
            yield [effect for effect, keep in zip(effects, chosen, strict=True) if keep]
        return
    yield effects
    yield []
    for one in effects:
        yield [effect for effect in effects if effect is not one]
        yield [one]
    chance = random.Random(len(effects))
    for _ in range(SAMPLES):
        share = chance.random()
        yield [effect for effect in effects if chance.random() < share]


def _apply(effects: list[Effect]) -> Disk:
    names: dict[str, int] = {}
    contents: dict[int, bytearray] = {}
    for effect in sorted(effects, key=_order):
        if isinstance(effect, SetName):
            if effect.inode is None:
                names.pop(effect.path, None)
            else:
                names[effect.path] = effect.inode
            continue
        content = contents.setdefault(effect.inode, bytearray())
        end = effect.offset + len(effect.data or b"")
        if end > len(content):
            content.extend(bytes(end - len(content)))
        if effect.data is not None:
            content[effect.offset : end] = effect.data
    names[""] = FOLDER
    disk: Disk = {}
    for path, inode in names.items():
        if path and names.get(parent_of(path)) == FOLDER:
            disk[path] = None if inode == FOLDER else bytes(contents.get(inode, b""))
    return disk


def _order(effect: Effect) -> int:
    return effect.order


def parent_of(path: str) -> str:
    """Return the folder that holds an entry."""
    return path.rpartition("/")[0]


def acknowledged(log: Sequence[Entry], done: int) -> list[Acknowledge]:
    """Return the promises that were made before a crash after `done` entries."""
    return [entry for entry in log[:done] if isinstance(entry, Acknowledge)]
