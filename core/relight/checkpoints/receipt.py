"""A receipt: what one writer contributes to a checkpoint, handed over before the manifest is committed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from relight.checkpoints.manifest import PackEntry, TensorEntry


class Receipt(msgspec.Struct, frozen=True):
    """A writer's part of a checkpoint, already durable: the pack that it wrote, and where each of its tensors is.

    A checkpoint is committed when the receipts of all its writers are there. A training in one process has one writer,
    and so one receipt.
    """

    new_pack: PackEntry | None
    """The pack that the writer wrote; None if older packs hold all its tensors."""
    old_packs: tuple[PackEntry, ...]
    """Packs of earlier checkpoints that hold some of its tensors."""
    tensors: tuple[TensorEntry, ...]
    """The `pack` of each is an index into `packs`."""

    @property
    def packs(self) -> tuple[PackEntry, ...]:
        """All packs that the tensors need, the new one first."""
        return self.old_packs if self.new_pack is None else (self.new_pack, *self.old_packs)


def merge_receipts(receipts: Sequence[Receipt]) -> tuple[tuple[PackEntry, ...], tuple[TensorEntry, ...]]:
    """Return the packs and tensors of a manifest. A pack that several receipts name is listed once."""
    packs: dict[str, PackEntry] = {}
    tensors: list[TensorEntry] = []
    for receipt in receipts:
        for pack in receipt.packs:
            packs.setdefault(pack.file, pack)
    numbers = {file: number for number, file in enumerate(packs)}
    for receipt in receipts:
        moved = [numbers[pack.file] for pack in receipt.packs]
        if moved == list(range(len(moved))):
            tensors += receipt.tensors
            continue
        for entry in receipt.tensors:
            tensors.append(msgspec.structs.replace(entry, pack=moved[entry.pack]) if entry.pack >= 0 else entry)
    return tuple(packs.values()), tuple(tensors)
