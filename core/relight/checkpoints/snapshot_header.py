"""A snapshot without its bytes: the facts about it, its state tree, and what its tensors look like."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from relight.checkpoints.dtypes import ITEM_BYTES, count_bytes
from relight.errors import UnsupportedState

Reason = Literal["periodic", "best", "stop", "signal", "exception", "manual", "final", "import"]

BEFORE_ANY_ATTEMPT = 0
"""The attempt of a checkpoint that was copied from another run."""


@dataclass(frozen=True)
class TensorRef:
    """A leaf of the state tree that stands for the tensor `name` of the checkpoint."""

    name: str


class Slice(msgspec.Struct, frozen=True):
    """Which rows of which tensor a part of it has. Rows are counted along the first dimension."""

    of: str
    """Name of the whole tensor, by which the state refers to it."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    row: int
    """The first row that this part has; the part's own shape says how many."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: contiguous, row-major, little-endian. `dtype` is the name that safetensors uses ("F32", "BOOL")."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    slice: Slice | None = None
    """For one part of a tensor that is split over several ranks."""


class RankShare(msgspec.Struct, frozen=True):
    """Which part of a checkpoint one rank saves. All ranks know the checkpoint's name before any of them writes."""

    rank: int
    world_size: int
    """Of how many ranks; 1 if rank 0 saves everything."""
    sequence: int


class SnapshotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a snapshot at its step edge, and stays the same from the trainer to the list of checkpoints.

    Every class that describes a snapshot or a checkpoint extends it; `facts_of` passes the facts on.
    """

    step: int
    epoch: int
    attempt: int
    reason: str
    """Why it was cut: a `Reason`, or a word that a later version of Relight has added."""
    time_s: float
    """Time of the step edge, in seconds since 1970."""
    score: float | None
    """Value of the run's best metric, if it was measured on exactly this state. In a checkpoint it is finite."""


def facts_of(described: SnapshotFacts) -> dict[str, Any]:
    """Return the facts as keyword arguments for another class that has them."""
    return {name: getattr(described, name) for name in SnapshotFacts.__struct_fields__}


def new_token() -> str:
    """Return eight hexadecimal characters that tell this snapshot from the others of its run."""
    return secrets.token_hex(4)


class SnapshotHeader(SnapshotFacts, frozen=True, kw_only=True):
    """Everything about a snapshot except the bytes of its tensors."""

    attempt: int = 1
    score: float | None = None
    tensors: list[TensorSpec]
    state: Any = None
    """A tree that typed JSON can hold, with `TensorRef` leaves.

    It must be the same for two runs that computed the same, so clock, host, path and attempt do not belong in it.
    """
    metrics: dict[str, float] = {}
    """Latest values by full name, such as `train/loss`."""
    environment: dict[str, Any] = {}
    """Versions, device, flags, and other things that may differ between runs that computed the same."""
    token: str = msgspec.field(default_factory=new_token)
    share: RankShare | None = None
    """None if this snapshot is the whole checkpoint of one process."""


def check_tensors(tensors: Iterable[TensorSpec]) -> None:
    """Raise `UnsupportedState`, with the tensor's name, for the first tensor that a pack cannot hold."""
    seen = {"__metadata__"}
    for tensor in tensors:
        if tensor.name in seen:
            raise UnsupportedState(
                "A tensor is named '__metadata__', a name that safetensors reserves. Rename it."
                if tensor.name == "__metadata__"
                else f"Two tensors of the checkpoint are named '{tensor.name}'. Give each its own name."
            )
        if tensor.dtype not in ITEM_BYTES:
            raise UnsupportedState(
                f"Tensor '{tensor.name}' has the type {tensor.dtype}, which a checkpoint cannot hold. "
                f"Convert it to one of {', '.join(ITEM_BYTES)}."
            )
        if tensor.nbytes != count_bytes(tensor.dtype, tensor.shape) or (tensor.shape and min(tensor.shape) < 0):
            raise ValueError(f"{tensor} does not have the bytes of its type and shape")
        seen.add(tensor.name)
