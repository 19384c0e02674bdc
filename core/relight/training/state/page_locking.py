"""Locks the pages of the staging memory, so that a CUDA device copies into it at full speed and in the background."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from relight.checkpoints.staging import Register, Unregister

_FOR_ALL_DEVICES = 1
"""cudaHostRegisterPortable."""


def find_register(tensors: Iterable[Tensor]) -> Register | None:
    """Return what prepares memory for copies of these tensors; None if none of them is on a CUDA device."""
    return lock_pages if any(tensor.is_cuda for tensor in tensors) else None


def lock_pages(memory: memoryview) -> Unregister | None:
    """Register memory with CUDA. Return what ends that, or None if CUDA refuses: then copies are slower."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]

    def unlock() -> bool:
        if int(runtime.cudaHostUnregister(address)) == 0:
            return True
        _forget_error()
        return False

    if int(runtime.cudaHostRegister(address, memory.nbytes, _FOR_ALL_DEVICES)) == 0:
        return unlock
    _forget_error()
    return None


def _forget_error() -> None:
    """Take the error that CUDA remembers. Otherwise the next kernel of the training would report it as its own."""
    try:
        torch.ones(1, device="cuda")
    except RuntimeError:
        pass
