"""Mixed precision: autocast for bf16 and fp16, and the loss scaling that fp16 needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from relight.errors import DeviceError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How the forward pass computes. `scaler` is there for fp16 only."""

    def __init__(self, name: str, *, device: torch.device) -> None:
        """Raises `DeviceError` when `device` cannot compute in `name`."""
        if name == "fp16" and device.type != "cuda":
            raise DeviceError(f"precision=fp16 needs a CUDA GPU, and the device is {device}: use bf16 or fp32.")
        if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise DeviceError(
                f"precision=bf16 is not supported by {torch.cuda.get_device_name(device)}: use fp16 or fp32."
            )
        self.name = name
        self.scaler = torch.amp.GradScaler("cuda") if name == "fp16" else None
        self._device_type = device.type
        self._dtype = _DTYPES.get(name)
        self._nothing: AbstractContextManager[Any] = nullcontext()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context that the forward pass runs in."""
        if self._dtype is None:
            return self._nothing
        return torch.autocast(self._device_type, dtype=self._dtype)
