"""Reads the memory of small tensors on the CPU as bytes: a tenth of what an operation of PyTorch takes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor


class TensorMemory:
    """Reads as many bytes in the middle of each tensor as `sizes` say, again and again."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._pointers: list[int] = []
        self._views: list[memoryview] = []

    def read(self, tensors: Sequence[Tensor]) -> bytes:
        """Return the bytes of all tensors. One may have got other memory since the last time."""
        pointers = list(map(Tensor.data_ptr, tensors))
        if pointers != self._pointers:
            self._pointers = pointers
            self._views = list(map(_view, tensors, self._sizes))
        return b"".join(self._views)


def is_readable(tensor: Tensor) -> bool:
    """Tell whether the memory of a tensor holds its values one after the other."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and tensor.nbytes > 0
        and tensor.is_contiguous()
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
    )


def _view(tensor: Tensor, size: int) -> memoryview:
    """Return `size` bytes in the middle of a tensor's memory; zeros while it does not have as many."""
    pointer, nbytes = tensor.data_ptr(), tensor.nbytes
    if not pointer or nbytes < size or not is_readable(tensor):  # for instance, its memory was given back for a while
        return memoryview(bytes(size))
    return memoryview((ctypes.c_ubyte * size).from_address(pointer + (nbytes - size) // 2)).cast("B")
