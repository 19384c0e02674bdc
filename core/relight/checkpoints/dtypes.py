"""The tensor types of a checkpoint: their names (safetensors' own), their sizes, and how a pack stores each."""

from __future__ import annotations

import math

ITEM_BYTES: dict[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2": 1,
    "F8_E5M2FNUZ": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
    "C128": 16,
}
"""Bytes of one item by type name."""

_STORED_AS_PARTS = {"C128": "F64"}
"""Types that safetensors does not know, stored as pairs of this type in one more dimension."""


def count_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a contiguous tensor; 0-d holds one item, any zero in `shape` means none."""
    return ITEM_BYTES[dtype] * math.prod(shape)


def stored_form(dtype: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Type and shape under which a pack's own header shows the tensor; the bytes are the same."""
    part = _STORED_AS_PARTS.get(dtype)
    return (dtype, shape) if part is None else (part, (*shape, 2))
