"""Two checkpoints that should hold the same state: what differs, the likeliest cause of the rest first."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from relight.checkpoints.manifest import Manifest, TensorEntry
from relight.checkpoints.typed_json import canonical_json

Part = Literal["data position", "generator", "schedule", "state", "buffer", "tensor", "optimizer", "metric"]

ReadTensor = Callable[[str], bytes | bytearray | memoryview]

_PARTS: tuple[Part, ...] = (
    "data position",
    "generator",
    "state",
    "schedule",
    "buffer",
    "tensor",
    "optimizer",
    "metric",
)
"""From cause to effect: a wrong batch changes every weight, so it is named before them."""

_ITEM_FORMATS = {
    "F64": "d",
    "F32": "f",
    "F16": "e",
    "I64": "q",
    "I32": "i",
    "I16": "h",
    "I8": "b",
    "U8": "B",
    "BOOL": "?",
}

_STATE_PARTS: tuple[tuple[tuple[str, ...], Part], ...] = (
    (("best", "metric", "evaluation"), "metric"),
    (("rng", "random", "generator"), "generator"),
    (("data", "loader", "sampler", "position", "batch", "epoch", "permutation"), "data position"),
    (("schedule", "scheduler", "lr"), "schedule"),
    (("optimizer", "param_groups"), "optimizer"),
)


@dataclass(frozen=True)
class StateDifference:
    """One thing that differs: its part of the state, its name, and both values in words."""

    part: Part
    name: str
    detail: str


def find_differences(
    resumed: Manifest, twin: Manifest, *, read_resumed: ReadTensor, read_twin: ReadTensor
) -> list[StateDifference]:
    """List what differs between two checkpoints, causes before effects.

    Tensors are compared by digest; only the first of those that differ is read, to say where.
    """
    found: list[StateDifference] = []
    ours = {entry.name: entry for entry in resumed.tensors}
    theirs = {entry.name: entry for entry in twin.tensors}
    for name in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(name), theirs.get(name)
        if (
            mine is None
            or other is None
            or (mine.dtype, mine.shape, mine.digest) != (other.dtype, other.shape, other.digest)
        ):
            found.append(StateDifference(_part_of_tensor(name), name, _compare_forms(mine, other)))
    found += _compare_states(resumed, twin)
    found.sort(key=lambda difference: _PARTS.index(difference.part))
    if found and not found[0].detail:
        first = found[0]
        where = _locate(ours[first.name], read_resumed(first.name), read_twin(first.name))
        found[0] = StateDifference(first.part, first.name, where)
    return found


def find_metric_difference(
    resumed: Mapping[int, Mapping[str, float]], twin: Mapping[int, Mapping[str, float]]
) -> tuple[int, StateDifference] | None:
    """The first step at which a logged value differs, bit for bit, and which; None when all are equal.

    Only steps and names that both logged are compared; NaN equals NaN.
    """
    for step in sorted(resumed.keys() & twin.keys()):
        for name in sorted(resumed[step].keys() & twin[step].keys()):
            mine, other = resumed[step][name], twin[step][name]
            if struct.pack("<d", mine) != struct.pack("<d", other) and not (math.isnan(mine) and math.isnan(other)):
                return step, StateDifference("metric", name, f"{mine!r} after the resume, {other!r} without it")
    return None


def _part_of_tensor(name: str) -> Part:
    for prefix, part in (
        ("rng.", "generator"),
        ("buffer.", "buffer"),
        ("optimizer.", "optimizer"),
        ("model.", "tensor"),
    ):
        if name.startswith(prefix):
            return part  # type: ignore[return-value]
    return _part_of_state(name)


def _part_of_state(path: str) -> Part:
    words = path.lower().replace("[", ".").replace("_", ".").split(".")
    for word in words:
        for keys, part in _STATE_PARTS:
            if word.startswith(keys):
                return part
    return "state"


def _compare_forms(mine: TensorEntry | None, other: TensorEntry | None) -> str:
    """Say how the forms differ; "" when only the values do."""
    if mine is None:
        return "only in the uninterrupted run"
    if other is None:
        return "only in the resumed run"
    if (mine.dtype, mine.shape) != (other.dtype, other.shape):
        return f"{mine.dtype} {list(mine.shape)} after the resume, {other.dtype} {list(other.shape)} without it"
    return ""


def _compare_states(resumed: Manifest, twin: Manifest) -> Iterator[StateDifference]:
    ours = dict(_flatten(msgspec.json.decode(canonical_json(resumed.state))))
    theirs = dict(_flatten(msgspec.json.decode(canonical_json(twin.state))))
    if (resumed.step, resumed.epoch) != (twin.step, twin.epoch):
        mine, other = f"step {resumed.step}, epoch {resumed.epoch}", f"step {twin.step}, epoch {twin.epoch}"
        yield StateDifference("state", "step", f"{mine} after the resume, {other} without it")
    for path in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(path, _MISSING), theirs.get(path, _MISSING)
        if mine != other:
            detail = f"{_shorten(mine)} after the resume, {_shorten(other)} without it"
            yield StateDifference(_part_of_state(path), path, detail)


_MISSING = object()


def _flatten(plain: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of decoded JSON with its dotted path."""
    if isinstance(plain, dict) and plain:
        for key, value in plain.items():
            yield from _flatten(value, f"{path}.{key}" if path else str(key))
    elif isinstance(plain, list) and plain:
        for index, value in enumerate(plain):
            yield from _flatten(value, f"{path}[{index}]")
    else:
        # The type belongs to it: in Python 1, 1.0 and True are equal.
        yield path, (type(plain).__name__, plain)


def _shorten(leaf: Any) -> str:
    if leaf is _MISSING:
        return "nothing"
    text = repr(leaf[1])
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters)"


def _locate(entry: TensorEntry, mine: Any, other: Any) -> str:
    """Say which element of two tensors of one form differs first, and how many bytes do."""
    ours, theirs = bytes(mine), bytes(other)
    offset = _first_difference(ours, theirs)
    item_bytes = max(1, len(ours) // max(1, _count(entry.shape)))
    index = offset // item_bytes
    kind = _ITEM_FORMATS.get(entry.dtype)
    begin, end = index * item_bytes, (index + 1) * item_bytes
    if kind is None:
        values = f"bytes {ours[begin:end].hex()} after the resume, {theirs[begin:end].hex()} without it"
    else:
        (a,), (b,) = struct.unpack("<" + kind, ours[begin:end]), struct.unpack("<" + kind, theirs[begin:end])
        values = f"{a!r} after the resume, {b!r} without it"
    return f"element {_unravel(index, entry.shape)}: {values}"


def _first_difference(ours: bytes, theirs: bytes) -> int:
    """Offset of the first byte that differs, by halving: comparing slices is far faster than looking at bytes."""
    low, high = 0, min(len(ours), len(theirs))
    while high - low > 1:
        middle = (low + high) // 2
        if ours[low:middle] != theirs[low:middle]:
            high = middle
        else:
            low = middle
    return low


def _count(shape: tuple[int, ...]) -> int:
    items = 1
    for size in shape:
        items *= size
    return items


def _unravel(index: int, shape: tuple[int, ...]) -> list[int]:
    position: list[int] = []
    for size in reversed(shape):
        position.insert(0, index % size)
        index //= size
    return position
