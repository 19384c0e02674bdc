"""Copying a captured state into the writer's staging memory: one memory copy for each tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from relight.checkpoints.snapshot import TensorSpec
from relight.training.state.state_tree import DTYPE_NAMES


def describe_tensors(tensors: Mapping[str, Tensor]) -> list[TensorSpec]:
    """Describe the tensors in the order in which they are to be staged."""
    return [
        TensorSpec(name=name, dtype=DTYPE_NAMES[tensor.dtype], shape=tuple(tensor.shape), nbytes=tensor.nbytes)
        for name, tensor in tensors.items()
    ]


def copy_tensors(tensors: Mapping[str, Tensor], memory: Sequence[memoryview]) -> None:
    """Copy each tensor, row-major, into its piece of memory. Blocks until all bytes are there."""
    with torch.no_grad():
        for tensor, piece in zip(tensors.values(), memory, strict=True):
            if tensor.nbytes:
                _copy(tensor, piece)
    if any(tensor.device.type == "cuda" for tensor in tensors.values()):
        torch.cuda.synchronize()


def _copy(tensor: Tensor, piece: memoryview) -> None:
    target = torch.frombuffer(piece, dtype=torch.uint8, count=tensor.nbytes)
    plain = tensor.resolve_conj().resolve_neg()
    if plain.is_contiguous():
        target.copy_(plain.reshape(-1).view(torch.uint8))
    elif target.data_ptr() % plain.element_size() == 0:
        target.view(plain.dtype).view(plain.shape).copy_(plain)  # rearranged on the way: no copy of it in between
    else:
        target.copy_(plain.contiguous().reshape(-1).view(torch.uint8))
