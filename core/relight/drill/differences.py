"""Finds what differs between two checkpoints or two sets of metrics, and sorts it from cause to effect."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from relight.checkpoints.dtypes import ITEM_BYTES
from relight.checkpoints.manifest import Manifest, TensorEntry
from relight.checkpoints.typed_json import canonical_json
from relight.metrics.witness_file import Digests

Part = Literal["data position", "generator", "schedule", "state", "buffer", "tensor", "optimizer", "metric"]

ReadTensor = Callable[[str], bytes | bytearray | memoryview]

MetricRows = Mapping[int, Mapping[str, float]]
"""Values by step and full name."""

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


@dataclass(frozen=True)
class StateDifference:
    """One thing that differs: its part of the state, its name, and both values in words."""

    part: Part
    name: str
    detail: str


_WITNESSED = {
    "batch": StateDifference("data position", "batch", "other samples than without a kill"),
    "generators": StateDifference("generator", "global generators", "other random numbers than without a kill"),
    "rates": StateDifference("schedule", "learning rate", "another one than without a kill"),
    "weights": StateDifference("tensor", "weights", "other values than without a kill"),
}
"""What each digest of a witness shows."""

_STRUCT_FORMATS = {
    "F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "I16": "h", "I8": "b", "U8": "B", "BOOL": "?",
}  # fmt: skip

_TENSOR_PARTS: tuple[tuple[str, Part], ...] = (
    ("rng.", "generator"),
    ("buffer.", "buffer"),
    ("optimizer.", "optimizer"),
    ("model.", "tensor"),
)
_STATE_PARTS: tuple[tuple[tuple[str, ...], Part], ...] = (
    (("best", "metric", "evaluation"), "metric"),
    (("rng", "random", "generator"), "generator"),
    (("data", "loader", "sampler", "position", "batch", "epoch", "permutation"), "data position"),
    (("schedule", "scheduler", "lr"), "schedule"),
    (("optimizer", "param_groups"), "optimizer"),
)


def find_differences(
    resumed: Manifest, uninterrupted: Manifest, *, read_resumed: ReadTensor, read_uninterrupted: ReadTensor
) -> list[StateDifference]:
    """List what differs between two checkpoints, causes before effects.

    Tensors are compared by digest. Only the first one that differs is read, to find out where.
    """
    found: list[StateDifference] = []
    ours = {entry.name: entry for entry in resumed.tensors}
    theirs = {entry.name: entry for entry in uninterrupted.tensors}
    for name in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(name), theirs.get(name)
        if (
            mine is None
            or other is None
            or (mine.dtype, mine.shape, mine.digest) != (other.dtype, other.shape, other.digest)
        ):
            found.append(StateDifference(_part_of_tensor(name), name, _compare_forms(mine, other)))
    found += _compare_states(resumed, uninterrupted)
    found = sort_differences(found)
    if found and not found[0].detail:
        first = found[0]
        where = _locate(ours[first.name], read_resumed(first.name), read_uninterrupted(first.name))
        found[0] = StateDifference(first.part, first.name, where)
    return found


def find_metric_difference(resumed: MetricRows, uninterrupted: MetricRows) -> tuple[int, StateDifference] | None:
    """Return the first step at which a logged value differs, bit for bit, and that value; None when all are equal.

    Only steps and names that both runs logged are compared. NaN equals NaN.
    """
    for step in sorted(resumed.keys() & uninterrupted.keys()):
        for name in sorted(resumed[step].keys() & uninterrupted[step].keys()):
            mine, other = resumed[step][name], uninterrupted[step][name]
            if struct.pack("<d", mine) != struct.pack("<d", other) and not (math.isnan(mine) and math.isnan(other)):
                return step, StateDifference("metric", name, f"{mine!r} after the resume, {other!r} without it")
    return None


def find_witness_difference(
    resumed: Mapping[int, Digests], uninterrupted: Mapping[int, Digests]
) -> tuple[int, StateDifference] | None:
    """Return the first step whose witnesses differ, and what differs first there; None when all are equal."""
    for step in sorted(resumed.keys() & uninterrupted.keys()):
        for field, mine, other in zip(Digests._fields, resumed[step], uninterrupted[step], strict=True):
            if mine and other and mine != other:
                return step, _WITNESSED[field]
    return None


def sort_differences(found: Iterable[StateDifference]) -> list[StateDifference]:
    """Put causes before effects."""
    return sorted(found, key=lambda difference: _PARTS.index(difference.part))


def _part_of_tensor(name: str) -> Part:
    known = next((part for prefix, part in _TENSOR_PARTS if name.startswith(prefix)), _part_of_state(name))
    return "tensor" if known == "state" else known  # a script's modules have any name


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


def _compare_states(resumed: Manifest, uninterrupted: Manifest) -> Iterator[StateDifference]:
    if (resumed.step, resumed.epoch) != (uninterrupted.step, uninterrupted.epoch):
        mine, other = (f"step {manifest.step}, epoch {manifest.epoch}" for manifest in (resumed, uninterrupted))
        yield StateDifference("state", "step", f"{mine} after the resume, {other} without it")
    ours, theirs = (
        dict(_flatten(msgspec.json.decode(canonical_json(manifest.state)))) for manifest in (resumed, uninterrupted)
    )
    for path in sorted(ours.keys() | theirs.keys()):
        one, two = ours.get(path), theirs.get(path)
        if one != two:
            detail = f"{_shorten(one)} after the resume, {_shorten(two)} without it"
            yield StateDifference(_part_of_state(path), path, detail)


def _flatten(plain: Any, path: str = "") -> Iterator[tuple[str, tuple[str, Any]]]:
    """Yield every leaf of decoded JSON with its dotted path."""
    if isinstance(plain, dict) and plain:
        for key, value in plain.items():
            yield from _flatten(value, f"{path}.{key}" if path else str(key))
    elif isinstance(plain, list) and plain:
        for index, value in enumerate(plain):
            yield from _flatten(value, f"{path}[{index}]")
    else:
        # The type counts too: in Python 1, 1.0 and True are equal.
        yield path, (type(plain).__name__, plain)


def _shorten(leaf: tuple[str, Any] | None) -> str:
    if leaf is None:
        return "nothing"
    text = repr(leaf[1])
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters)"


def _locate(entry: TensorEntry, mine: Any, other: Any) -> str:
    """Name the first element that differs between two tensors of the same form, with both values."""
    size = ITEM_BYTES[entry.dtype]
    ours, theirs = (np.frombuffer(data, dtype=np.uint8).reshape(-1, size) for data in (mine, other))
    index = int((ours != theirs).any(axis=1).argmax())
    position = [int(at) for at in np.unravel_index(index, entry.shape)]
    one, two = (_read_item(entry.dtype, items[index].tobytes()) for items in (ours, theirs))
    return f"element {position}: {one} after the resume, {two} without it"


def _read_item(dtype: str, data: bytes) -> str:
    kind = _STRUCT_FORMATS.get(dtype)
    return f"bytes {data.hex()}" if kind is None else repr(struct.unpack(f"<{kind}", data)[0])
