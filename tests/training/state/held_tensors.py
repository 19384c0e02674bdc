"""Holds saved tensors in memory, in place of a checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from relight.training.state.state_tree import describe_form


class HeldTensors:
    """A `TensorSource` that returns copies of `tensors`."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __call__(self, name: str) -> Tensor:
        return self._tensors[name].clone()

    def like(self, name: str, live: Tensor | None) -> Tensor:
        """Return the tensor: it is never split."""
        return self(name)

    def form(self, name: str) -> str:
        """Describe the tensor's type and shape without reading it."""
        return describe_form(self._tensors[name])

    def read_into(self, name: str, live: Tensor) -> None:
        """Copy the tensor into `live`."""
        with torch.no_grad():
            live.copy_(self._tensors[name])
