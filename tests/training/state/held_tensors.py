"""Saved tensors in memory, where the parts of a state expect those of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from relight.training.state.state_tree import describe_form


class HeldTensors:
    """Hands out copies of `tensors`: a `TensorSource`."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __call__(self, name: str) -> Tensor:
        return self._tensors[name].clone()

    def form(self, name: str) -> str:
        """What is said of it without reading it."""
        return describe_form(self._tensors[name])

    def read_into(self, name: str, live: Tensor) -> None:
        """Copy it into `live`."""
        with torch.no_grad():
            live.copy_(self._tensors[name])
