"""A snapshot as the store takes it: what it says of itself, and what its tensors look like. Their bytes come apart."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from relight.checkpoints.dtypes import ITEM_BYTES, count_bytes
from relight.errors import UnsupportedState

Reason = Literal["periodic", "best", "stop", "signal", "exception", "manual", "final", "import"]


@dataclass(frozen=True)
class TensorRef:
    """A leaf of the state tree that stands for the checkpoint's tensor `name`."""

    name: str


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: contiguous, little-endian, row-major. `dtype` is safetensors' name ("F32", "BF16", "BOOL", ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def new_token() -> str:
    """Eight hexadecimal characters that tell one snapshot from every other of its run."""
    return secrets.token_hex(4)


@dataclass(frozen=True)
class SnapshotHeader:
    """Everything of a snapshot but the tensors' bytes.

    `state` is any tree that typed JSON can hold, with `TensorRef` leaves. It must be the same for two runs that
    computed the same: no clock, host, path or attempt in it (those go to `environment`). `metrics` has full names;
    `score` is the value of the run's best metric, only when it was measured on exactly this state. `time_s` is when
    the step edge was, in seconds since 1970.
    """

    step: int
    epoch: int
    reason: Reason
    time_s: float
    tensors: list[TensorSpec]
    state: Any = None
    metrics: dict[str, float] = field(default_factory=dict)
    score: float | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    attempt: int = 1
    token: str = field(default_factory=new_token)


def check_tensors(tensors: Iterable[TensorSpec]) -> None:
    """Refuse tensors that no pack can hold, each by its name."""
    seen = {"__metadata__"}
    for tensor in tensors:
        if tensor.name in seen:
            raise UnsupportedState(
                "A tensor is named '__metadata__', which safetensors keeps for itself. Rename it."
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
