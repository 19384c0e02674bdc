"""Finding the newest checkpoint that is right in every byte, and everything in a store that is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from relight.checkpoints.listing import CheckpointInfo, DamagedEntry
from relight.errors import CheckpointNotFound

if TYPE_CHECKING:
    from relight.checkpoints.store import CheckpointStore

OnProgress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all)."""


@dataclass(frozen=True)
class PassedOver:
    """A newer checkpoint that could not be used, and why."""

    path: Path
    step: int
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """What reading a whole store found."""

    checked: int
    """Checkpoints of which every byte was read."""
    bytes: int
    damaged: list[DamagedEntry] = field(default_factory=list)


class _Progress:
    def __init__(self, on_progress: OnProgress | None, total: int) -> None:
        self.done = 0
        self._on_progress = on_progress
        self._total = total

    def __call__(self, count: int) -> None:
        self.done += count
        if self._on_progress is not None:
            self._on_progress(self.done, self._total)


def find_newest_good(
    store: CheckpointStore, *, before_sequence: int | None, quarantine: bool, on_progress: OnProgress | None
) -> tuple[CheckpointInfo | None, Sequence[PassedOver]]:
    """Newest sequence number first; see `CheckpointStore.newest_good`."""
    passed: list[PassedOver] = []
    listing = store.list()
    damaged = {entry.path.name: entry for entry in listing.damaged}
    infos = {info.path.name: info for info in listing.checkpoints}
    for name in sorted(store.manifest_names(), reverse=True):
        if before_sequence is not None and name.sequence >= before_sequence:
            continue
        info = infos.get(name.manifest)
        if info is not None:
            found = store.check(info, on_read=_Progress(on_progress, info.bytes))
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
                store.quarantine(name)
            except OSError as error:  # it stays where it is, and is passed over again next time
                reason += f" It could not be moved to quarantine ({error.strerror or error})."
        passed.append(PassedOver(store.layout.manifests / name.manifest, name.step, reason))
    return None, passed


def check_all(store: CheckpointStore, *, on_progress: OnProgress | None) -> VerifyReport:
    """Read every byte of every checkpoint from the disk; see `CheckpointStore.verify`."""
    listing = store.list()
    damaged = list(listing.damaged)
    progress = _Progress(on_progress, sum(info.bytes for info in listing.checkpoints))
    checked = 0
    for info in listing.checkpoints:
        try:
            found = store.check(info, from_disk=True, on_read=progress)
        except CheckpointNotFound:
            continue
        if found and not info.path.exists():
            continue  # Removed by the writer meanwhile: not damaged, only not kept.
        checked += 1
        damaged.extend(entry for entry in found if entry not in damaged)
    return VerifyReport(checked=checked, bytes=progress.done, damaged=damaged)
