"""The tensor types that a checkpoint can hold: their names (as in safetensors), sizes, and how a pack stores them."""

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
"""Bytes of one item, by the name of the type."""

_STORED_AS_PARTS = {"C128": "F64"}
"""Types that safetensors does not know, and the type that is stored instead, with one more dimension of 2."""


def count_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a contiguous tensor. A 0-d tensor has one item; a zero in `shape` means no items."""
    return ITEM_BYTES[dtype] * math.prod(shape)


def stored_form(dtype: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Return the type and shape in the header of a pack. The bytes are the same."""
    part = _STORED_AS_PARTS.get(dtype)
    return (dtype, shape) if part is None else (part, (*shape, 2))
