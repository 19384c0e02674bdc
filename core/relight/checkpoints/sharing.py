"""Decides, from digests alone, which tensors of a snapshot must be written and which are on the disk already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from relight.checkpoints.manifest import Manifest, PackEntry, TensorEntry
from relight.checkpoints.pack import order_for_pack
from relight.checkpoints.receipt import Receipt
from relight.checkpoints.snapshot_header import TensorSpec

SHARED_FRACTION = 0.5
"""The part of an old pack that must be needed for the pack to be shared.

A pack stays on the disk as long as anything in it is needed. So a checkpoint keeps at most 1 / SHARED_FRACTION of its
own size on the disk."""


@dataclass(frozen=True)
class Placement:
    """Where each tensor of a snapshot will be. Tensors are given by index."""

    written: tuple[int, ...]
    """The tensors of the new pack, in pack order."""
    same_as: dict[int, int]
    """For each tensor whose bytes are in the new pack, the written tensor that has them: itself, or an equal one."""
    shared: dict[int, TensorEntry]
    """For each tensor whose bytes are in an older pack, the parent's entry that says where."""
    old_packs: tuple[PackEntry, ...]
    """The packs of the parent."""


def place_tensors(tensors: Sequence[TensorSpec], digests: Sequence[str], *, parent: Manifest | None) -> Placement:
    """Share what `parent` has with the same type, shape and digest, and write equal tensors (tied weights) once."""
    shared = {} if parent is None else _find_shared(tensors, digests, parent)
    order = order_for_pack(tensors, [i for i, tensor in enumerate(tensors) if tensor.nbytes and i not in shared])
    first: dict[tuple[str, int], int] = {}
    same_as = {i: first.setdefault((digests[i], tensors[i].nbytes), i) for i in order}
    written = tuple(i for i in order if same_as[i] == i)
    return Placement(written, same_as, shared, () if parent is None else parent.packs)


def guess_written(tensors: Sequence[TensorSpec], parent: Manifest, *, rank: int | None = None) -> tuple[int, ...]:
    """Predict, before there are digests, what `place_tensors` will have written: the tensors written last time."""
    last = parent.checkpoint_name.pack_of(rank)
    own = next((number for number, pack in enumerate(parent.packs) if pack.file == last), None)
    entries = {entry.name: entry for entry in parent.tensors}
    written: list[int] = []
    offsets: set[int] = set()
    for i in order_for_pack(tensors, [i for i, tensor in enumerate(tensors) if tensor.nbytes]):
        tensor = tensors[i]
        entry = entries.get(tensor.name)
        if entry is not None and (entry.dtype, entry.shape) == (tensor.dtype, tensor.shape):
            if entry.pack != own or entry.offset in offsets:
                continue  # it is frozen, or equal to another one
            offsets.add(entry.offset)
        written.append(i)
    return tuple(written)


def make_receipt(
    tensors: Sequence[TensorSpec],
    digests: Sequence[str],
    placement: Placement,
    *,
    new_pack: PackEntry | None,
    offsets: Sequence[int],
) -> Receipt:
    """Say where each tensor is. `offsets` are those of `placement.written` in the new pack."""
    needed = list(dict.fromkeys(entry.pack for entry in placement.shared.values()))
    numbers = {old: number for number, old in enumerate(needed, 0 if new_pack is None else 1)}
    new_offsets = dict(zip(placement.written, offsets, strict=True))
    entries: list[TensorEntry] = []
    for i, tensor in enumerate(tensors):
        old_entry = placement.shared.get(i)
        pack, offset = -1, 0
        if old_entry is not None:
            pack, offset = numbers[old_entry.pack], old_entry.offset
            if (pack, tensor.name, tensor.slice) == (old_entry.pack, old_entry.name, old_entry.slice):
                entries.append(old_entry)
                continue
        elif tensor.nbytes:
            pack, offset = 0, new_offsets[placement.same_as[i]]
        entries.append(
            TensorEntry(tensor.name, tensor.dtype, tensor.shape, pack, offset, tensor.nbytes, digests[i], tensor.slice)
        )
    return Receipt(new_pack, tuple(placement.old_packs[old] for old in needed), tuple(entries))


def _find_shared(tensors: Sequence[TensorSpec], digests: Sequence[str], parent: Manifest) -> dict[int, TensorEntry]:
    found: dict[int, TensorEntry] = {}
    known: dict[tuple[str, tuple[int, ...], str], TensorEntry] = {}
    for i, (tensor, digest, same) in enumerate(zip_longest(tensors, digests, parent.tensors[: len(tensors)])):
        if not tensor.nbytes:
            continue
        # It is nearly always the one with the same index.
        if same is not None and same.digest == digest and same.dtype == tensor.dtype and same.shape == tensor.shape:
            found[i] = same
            continue
        known = known or {(entry.dtype, entry.shape, entry.digest): entry for entry in parent.tensors}
        entry = known.get((tensor.dtype, tensor.shape, digest))
        if entry is not None:
            found[i] = entry
    needed = [0] * len(parent.packs)
    for pack, _, nbytes in {(entry.pack, entry.offset, entry.bytes) for entry in found.values()}:
        needed[pack] += nbytes
    worthwhile = {
        number
        for number, pack in enumerate(parent.packs)
        if needed[number] >= SHARED_FRACTION * (pack.bytes - pack.header_bytes)
    }
    return {i: entry for i, entry in found.items() if entry.pack in worthwhile}
