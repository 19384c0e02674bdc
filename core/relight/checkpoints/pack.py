"""A pack: an ordinary safetensors file whose header is padded, so that the tensors begin at a page boundary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from relight.checkpoints.dtypes import ITEM_BYTES, stored_form
from relight.checkpoints.snapshot_header import TensorSpec
from relight.errors import UnsupportedState

HEADER_ALIGNMENT = 4096
MAX_HEADER_BYTES = 100_000_000
"""The most that the safetensors library accepts."""


@dataclass(frozen=True)
class PackPlan:
    """The layout of a pack, before any of it is written."""

    header: bytes
    """The first bytes of the file: length, JSON, and spaces up to the page boundary where the tensors begin."""
    offsets: tuple[int, ...]
    """Where each tensor begins, from the beginning of the file."""
    bytes: int
    """Length of the whole file."""


def order_for_pack(tensors: Sequence[TensorSpec], chosen: Iterable[int] | None = None) -> list[int]:
    """Return the indices of `tensors`, or those in `chosen`, in pack order.

    Tensors with wide items come first, so that each one is aligned; among equally wide ones names decide.
    """
    return sorted(
        range(len(tensors)) if chosen is None else chosen,
        key=lambda i: (-ITEM_BYTES[tensors[i].dtype], tensors[i].name),
    )


def lay_out(tensors: Sequence[TensorSpec]) -> list[int]:
    """Return the offset of each tensor in the data of a pack that holds all of them; the first has offset 0."""
    offsets = [0] * len(tensors)
    position = 0
    for index in order_for_pack(tensors):
        offsets[index] = position
        position += tensors[index].nbytes
    return offsets


def plan_pack(tensors: Sequence[TensorSpec], *, metadata: Mapping[str, str]) -> PackPlan:
    """Lay out a pack of `tensors`, which must be in pack order."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    relative: list[int] = []
    position = 0
    for tensor in tensors:
        dtype, shape = stored_form(tensor.dtype, tensor.shape)
        entries[tensor.name] = {"dtype": dtype, "shape": shape, "data_offsets": (position, position + tensor.nbytes)}
        relative.append(position)
        position += tensor.nbytes
    text = msgspec.json.encode(entries)
    text += b" " * (-(8 + len(text)) % HEADER_ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise UnsupportedState(
            f"The checkpoint has {len(tensors):,} tensors, more than one safetensors file can hold. "
            "Stack the small ones into larger tensors."
        )
    header = len(text).to_bytes(8, "little") + text
    return PackPlan(header, tuple(len(header) + offset for offset in relative), len(header) + position)
