"""Copies a captured state into the writer's staging memory, with one memory copy for each tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from relight.checkpoints.pack import order_for_pack
from relight.checkpoints.snapshot_header import TensorSpec
from relight.training.state.state_tree import DTYPE_NAMES

_TOLD_BYTES = 16 << 20
_SHARED_BYTES = 4 << 20
"""Tensors of this size or more are copied by two threads."""


def describe_tensors(tensors: Mapping[str, Tensor]) -> list[TensorSpec]:
    """Describe the tensors in the order in which they will be staged."""
    return [
        TensorSpec(name=name, dtype=DTYPE_NAMES[tensor.dtype], shape=tuple(tensor.shape), nbytes=tensor.nbytes)
        for name, tensor in tensors.items()
    ]


def copy_tensors(
    tensors: Mapping[str, Tensor], memory: Sequence[memoryview], *, on_copied: Callable[[int], None] | None = None
) -> None:
    """Copy each tensor, row-major, into its piece of memory, in pack order. Block until all bytes are copied.

    `on_copied` is called from time to time with the number of tensors copied so far.
    """
    pairs = list(zip(tensors.values(), memory, strict=True))
    untold_bytes = 0
    with torch.no_grad(), ThreadPoolExecutor(1, thread_name_prefix="relight-copy") as pool:
        helper = pool if _has_idle_core() else None
        for count, index in enumerate(order_for_pack(describe_tensors(tensors)), 1):
            tensor, piece = pairs[index]
            if tensor.nbytes:
                _copy(tensor, piece, helper)
            untold_bytes += tensor.nbytes
            if on_copied is not None and untold_bytes >= _TOLD_BYTES:
                on_copied(count)
                untold_bytes = 0
    if any(tensor.device.type == "cuda" for tensor in tensors.values()):
        torch.cuda.synchronize()


def _copy(tensor: Tensor, piece: memoryview, helper: ThreadPoolExecutor | None) -> None:
    target = torch.frombuffer(piece, dtype=torch.uint8, count=tensor.nbytes)
    plain = tensor.resolve_conj().resolve_neg()
    if plain.is_contiguous():
        source = plain.reshape(-1).view(torch.uint8)
        if helper is None or tensor.nbytes < _SHARED_BYTES or tensor.device.type != "cpu":
            target.copy_(source)
            return
        half = tensor.nbytes // 2
        other_half = helper.submit(target[half:].copy_, source[half:])
        target[:half].copy_(source[:half])
        other_half.result()
    elif target.data_ptr() % plain.element_size() == 0:
        target.view(plain.dtype).view(plain.shape).copy_(plain)  # rearranged on the way, without an extra copy
    else:
        target.copy_(plain.contiguous().reshape(-1).view(torch.uint8))


def _has_idle_core() -> bool:
    """Tell whether PyTorch leaves a core alone that could help. One thread does not use up the memory's bandwidth."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return torch.get_num_threads() == 1 < cores
