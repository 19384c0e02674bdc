"""Tensors that `fully_shard` has split over the ranks (DTensor): which rows this rank has, and how to fill them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from relight.checkpoints.snapshot_header import Slice
from relight.errors import UnsupportedState


@dataclass(frozen=True)
class Rows:
    """The rows of a tensor that this rank has."""

    begin: int
    end: int
    is_split: bool
    """Whether other ranks have other rows."""
    is_saved: bool
    """Whether this rank saves its rows: not if another rank has the same ones, or if it has none."""


def is_sharded(tensor: Any) -> bool:
    """Tell whether this is a DTensor, without loading that part of PyTorch."""
    return type(tensor).__name__ == "DTensor"


def local_part(tensor: Tensor) -> Tensor:
    """Return this rank's part of a DTensor, in the same memory; any other tensor as it is."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return local


def find_rows(name: str, tensor: Any, shape: torch.Size | tuple[int, ...] | None = None) -> Rows:
    """Return which rows of the DTensor `tensor` this rank has, or would have if its shape were `shape`.

    They are dealt as `torch.chunk` does, so the last ranks may have fewer rows, or none. Raise `UnsupportedState` if
    the tensor is divided in any other way than along its first dimension.
    """
    from torch.distributed.tensor import Replicate, Shard

    shape = tuple(tensor.shape) if shape is None else tuple(shape)
    begin, end = 0, shape[0] if shape else 1
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:  # the tensor is on other ranks
        return Rows(0, 0, is_split=True, is_saved=False)
    is_split, is_saved, is_first = False, True, True
    for dimension, (placement, place) in enumerate(zip(tensor.placements, coordinate, strict=True)):
        ranks = tensor.device_mesh.size(dimension)
        if ranks == 1:
            continue
        if type(placement) is Replicate:
            is_saved = is_saved and place == 0
        elif type(placement) is Shard and placement.dim == 0 and shape and not is_split:
            is_split, is_first = True, place == 0
            each = -(-shape[0] // ranks)
            begin, end = min(place * each, shape[0]), min((place + 1) * each, shape[0])
        else:
            raise UnsupportedState(
                f"The tensor '{name}' is divided over the ranks as {placement}, which cannot be saved. Let fully_shard "
                "divide it along its first dimension, as it does by default."
            )
    return Rows(begin, end, is_split=is_split, is_saved=is_saved and (end > begin or is_first))


def split_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Slice]]:
    """Return what this rank has of all tensors, by the names of the parts, and which parts of others they are.

    Tensors that are not split are everyone's, and keep their names.
    """
    stored: dict[str, Tensor] = {}
    slices: dict[str, Slice] = {}
    for name, tensor in tensors.items():
        if not is_sharded(tensor):
            stored[name] = tensor
            continue
        rows, local = find_rows(name, tensor), local_part(tensor)
        if not rows.is_split:
            stored[name] = local
        elif rows.is_saved:
            if len(local) != rows.end - rows.begin:
                raise UnsupportedState(
                    f"The tensor '{name}' has {len(local)} rows in this rank, where {rows.end - rows.begin} were "
                    "expected. Let fully_shard divide it evenly, as it does by default."
                )
            part = f"{name}[{rows.begin}:{rows.end}]"
            stored[part], slices[part] = local, Slice(name, tuple(tensor.shape), rows.begin)
    return stored, slices


def wrap_like(tensor: Any, local: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a DTensor of that shape, whose part in this rank is `local`, on the ranks of the DTensor `tensor`."""
    from torch.distributed.tensor import DTensor

    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        local, tensor.device_mesh, tensor.placements, run_check=False, shape=torch.Size(shape), stride=stride
    )


def refuse_sharded(owner: str, state: Any) -> Any:
    """Return the state of a tracked object; raise `UnsupportedState` if a rank has only a part of it."""
    if is_sharded(state):
        raise UnsupportedState(
            f"'{owner}' has a tensor that is sharded over several ranks, and is neither a module nor an optimizer. "
            "Have its state_dict return ordinary tensors."
        )
    for inner in state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ():
        refuse_sharded(owner, inner)
    return state


def list_sharded_modules(module: nn.Module) -> list[Any]:
    """Return the modules that `fully_shard` was called with."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind = None if fsdp is None else getattr(fsdp, "FSDPModule", None)
    return [] if kind is None else [each for each in module.modules() if isinstance(each, kind)]


def reshard(modules: Iterable[Any]) -> None:
    """Let these modules have their own parameters again, and not the gathered ones of a forward pass."""
    for module in modules:
        module.reshard()
