"""Which tensors of a snapshot have to be written, and which lie on the disk already: pure decisions from digests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relight.checkpoints.manifest import Manifest, PackEntry, TensorEntry
from relight.checkpoints.pack import order_for_pack
from relight.checkpoints.snapshot import TensorSpec

SHARED_FRACTION = 0.5
"""An old pack is referenced only while at least this much of it is needed: a pack stays as long as anything in it is,
so a checkpoint never holds more than 1 / SHARED_FRACTION of its own size on the disk."""


@dataclass(frozen=True)
class OldPlace:
    """Where a tensor already lies."""

    pack: PackEntry
    offset: int


@dataclass(frozen=True)
class Placement:
    """Where each tensor of a snapshot will be, by its index."""

    written: tuple[int, ...]
    """Tensors of the new pack, in its order."""
    same_as: dict[int, int]
    """Every tensor whose bytes are in the new pack -> the written one that has them: itself, or its equal."""
    shared: dict[int, OldPlace]
    """Tensors whose bytes an older pack has."""


def place_tensors(tensors: Sequence[TensorSpec], digests: Sequence[str], *, parent: Manifest | None) -> Placement:
    """Share what `parent` has with the same type, shape and digest; write equal tensors (tied weights) once."""
    shared = {} if parent is None else _find_shared(tensors, digests, parent)
    order = [i for i in order_for_pack(tensors) if i not in shared and tensors[i].nbytes]
    first: dict[tuple[str, int], int] = {}
    same_as = {i: first.setdefault((digests[i], tensors[i].nbytes), i) for i in order}
    return Placement(tuple(i for i in order if same_as[i] == i), same_as, shared)


def list_entries(
    tensors: Sequence[TensorSpec],
    digests: Sequence[str],
    placement: Placement,
    *,
    new_pack: PackEntry | None,
    offsets: Sequence[int],
) -> tuple[tuple[PackEntry, ...], tuple[TensorEntry, ...]]:
    """Packs and tensors of the manifest; `offsets` are those of `placement.written` in the new pack, which is first."""
    packs = {} if new_pack is None else {new_pack.file: new_pack}
    for place in placement.shared.values():
        packs.setdefault(place.pack.file, place.pack)
    numbers = {file: number for number, file in enumerate(packs)}
    new_offsets = dict(zip(placement.written, offsets, strict=True))
    entries: list[TensorEntry] = []
    for i, tensor in enumerate(tensors):
        pack, offset = -1, 0
        if i in placement.shared:
            pack, offset = numbers[placement.shared[i].pack.file], placement.shared[i].offset
        elif tensor.nbytes:
            pack, offset = 0, new_offsets[placement.same_as[i]]
        entries.append(TensorEntry(tensor.name, tensor.dtype, tensor.shape, pack, offset, tensor.nbytes, digests[i]))
    return tuple(packs.values()), tuple(entries)


def _find_shared(tensors: Sequence[TensorSpec], digests: Sequence[str], parent: Manifest) -> dict[int, OldPlace]:
    known = {(entry.dtype, entry.shape, entry.digest): entry for entry in parent.tensors if entry.bytes}
    found = {
        i: entry
        for i, tensor in enumerate(tensors)
        if (entry := known.get((tensor.dtype, tensor.shape, digests[i]))) is not None
    }
    needed = [0] * len(parent.packs)
    for pack, _, nbytes in {(entry.pack, entry.offset, entry.bytes) for entry in found.values()}:
        needed[pack] += nbytes
    worthwhile = {
        number
        for number, pack in enumerate(parent.packs)
        if needed[number] >= SHARED_FRACTION * (pack.bytes - pack.header_bytes)
    }
    return {
        i: OldPlace(parent.packs[entry.pack], entry.offset) for i, entry in found.items() if entry.pack in worthwhile
    }
