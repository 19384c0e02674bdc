"""Mixed precision: autocast for bf16 and fp16, and loss scaling for fp16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from relight.errors import DeviceError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The arithmetic of the forward pass. `scaler` is None except for fp16."""

    def __init__(self, name: str, *, device: torch.device) -> None:
        """Raise `DeviceError` if `device` does not support the precision `name`."""
        if name == "fp16" and device.type != "cuda":
            raise DeviceError(f"precision=fp16 needs a CUDA GPU, and the device is {device}. Use bf16 or fp32.")
        if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise DeviceError(
                f"{torch.cuda.get_device_name(device)} does not support precision=bf16. Use fp16 or fp32."
            )
        self.name = name
        self.scaler = torch.amp.GradScaler("cuda") if name == "fp16" else None
        self._device_type = device.type
        self._dtype = _DTYPES.get(name)
        self._nothing: AbstractContextManager[Any] = nullcontext()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for the forward pass."""
        if self._dtype is None:
            return self._nothing
        return torch.autocast(self._device_type, dtype=self._dtype)
