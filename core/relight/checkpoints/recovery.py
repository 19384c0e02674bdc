"""Reads checkpoints back: finds the newest one that is intact, and everything in a store that is damaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from relight.checkpoints.listing import CheckpointInfo, DamagedEntry
from relight.checkpoints.quarantine import quarantine_checkpoint
from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.store_format import find_format_problem
from relight.errors import CheckpointNotFound

OnProgress = Callable[[int, int], None]
"""Called with (bytes read, bytes in total)."""


@dataclass(frozen=True)
class PassedOver:
    """A newer checkpoint that could not be used, and why."""

    path: Path
    step: int
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """The result of reading a whole store."""

    checked: int
    """Number of checkpoints of which every byte was read."""
    bytes: int
    damaged: list[DamagedEntry] = field(default_factory=list)


def find_newest_good(
    store: CheckpointStore, *, quarantine: bool = True
) -> tuple[CheckpointInfo | None, Sequence[PassedOver]]:
    """Return the newest checkpoint whose digests all match, and the newer ones that were passed over.

    With `quarantine`, which only the process that holds the run's lock may use, the damaged ones are moved to
    quarantine (never deleted), and the one found is marked as verified.
    """
    passed: list[PassedOver] = []
    listing = store.list()
    damaged = {entry.path.name: entry for entry in listing.damaged}
    infos = {info.path.name: info for info in listing.checkpoints}
    for name in sorted(store.manifest_names(), reverse=True):
        info = infos.get(name.manifest)
        if info is not None:
            found = store.check(info)
            if not found:
                if quarantine:
                    store.mark_verified(info)
                return replace(info, verified=info.verified or quarantine), passed
        elif name.manifest in damaged:
            found = [damaged[name.manifest]]
        else:
            continue
        reason = found[0].reason
        if quarantine and not any(entry.later_version for entry in found):
            try:
                quarantine_checkpoint(store, name)
            except OSError as error:  # it stays where it is, and is passed over again next time
                reason += f" It could not be moved to quarantine ({error.strerror or error})."
        passed.append(PassedOver(store.layout.manifests / name.manifest, name.step, reason))
    return None, passed


def verify_store(store: CheckpointStore, *, on_progress: OnProgress | None = None) -> VerifyReport:
    """Read every byte of every checkpoint from the disk, and report every damaged file. Changes nothing."""
    try:
        listing = store.list()
    except OSError as error:
        path = Path(error.filename or store.layout.folder)
        return VerifyReport(0, 0, [DamagedEntry(path, f"It cannot be read: {error.strerror or error}.")])
    damaged = list(listing.damaged)
    total = sum(info.bytes for info in listing.checkpoints)
    done = checked = 0

    def note_read(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, total)

    for info in listing.checkpoints:
        try:
            found = store.check(info, from_disk=True, on_read=note_read)
        except CheckpointNotFound:
            continue
        except OSError as error:
            found = [DamagedEntry(info.path, f"It cannot be read: {error.strerror or error} ({error.filename}).")]
        if found and not store.operations.exists(info.path):
            continue  # The retention has removed it in the meantime: it is not damaged.
        checked += 1
        damaged.extend(entry for entry in found if entry not in damaged)
    problem = find_format_problem(
        store.layout, store.operations, is_empty=not listing.checkpoints and not listing.damaged
    )
    if problem is not None:
        damaged.append(problem)
    return VerifyReport(checked=checked, bytes=done, damaged=damaged)
