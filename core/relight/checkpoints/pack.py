"""A pack: an ordinary safetensors file whose header is padded so that its tensors begin on a page of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from relight.checkpoints.dtypes import ITEM_BYTES, stored_form
from relight.checkpoints.snapshot_header import TensorSpec
from relight.errors import UnsupportedState

HEADER_ALIGNMENT = 4096
MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library accepts."""


@dataclass(frozen=True)
class PackPlan:
    """Where everything goes in a pack, before a byte of it is written."""

    header: bytes
    """The first bytes of the file: length, JSON, and spaces up to the page where the tensors begin."""
    offsets: tuple[int, ...]
    """Where each tensor begins, from the beginning of the file."""
    bytes: int
    """Length of the whole file."""


def order_for_pack(tensors: Sequence[TensorSpec], chosen: Iterable[int] | None = None) -> list[int]:
    """Indices of `tensors` in the order of a pack: wide items first, so that each lies aligned; then by name.

    All of them, or those in `chosen`.
    """
    return sorted(
        range(len(tensors)) if chosen is None else chosen,
        key=lambda i: (-ITEM_BYTES[tensors[i].dtype], tensors[i].name),
    )


def lay_out(tensors: Sequence[TensorSpec]) -> list[int]:
    """Where each tensor of a snapshot lies in the data of a pack that holds them all, from the first tensor on."""
    offsets = [0] * len(tensors)
    position = 0
    for index in order_for_pack(tensors):
        offsets[index] = position
        position += tensors[index].nbytes
    return offsets


def plan_pack(tensors: Sequence[TensorSpec], *, metadata: Mapping[str, str]) -> PackPlan:
    """A pack with `tensors`, which must come in the order of `order_for_pack`."""
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
            f"The checkpoint has {len(tensors):,} tensors, more than one safetensors file can name. "
            "Stack the small ones into larger tensors."
        )
    header = len(text).to_bytes(8, "little") + text
    return PackPlan(header, tuple(len(header) + offset for offset in relative), len(header) + position)
