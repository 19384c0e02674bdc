"""Reads the tensors of an open checkpoint by name, one at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from relight.checkpoints.checkpoint_reader import CheckpointReader
from relight.training.state.state_tree import DTYPES, describe_form


class StoredTensors:
    """Reads tensors of a checkpoint; every byte is compared with its digest. Raises `DamagedCheckpoint`."""

    def __init__(self, reader: CheckpointReader) -> None:
        self._reader = reader

    def __call__(self, name: str) -> Tensor:
        """Return the tensor on the CPU, in its own memory."""
        spec = self._reader.spec(name)
        tensor = torch.empty(spec.shape, dtype=DTYPES[spec.dtype], device="cpu")  # whatever the default device is
        self._fill(name, tensor)
        return tensor

    def form(self, name: str) -> str:
        """Return the tensor's type and shape as `describe_form` does, without reading it."""
        spec = self._reader.spec(name)
        return describe_form(torch.empty(spec.shape, dtype=DTYPES[spec.dtype], device="meta"))

    def read_into(self, name: str, live: Tensor) -> None:
        """Read the tensor into `live`, which has the same form; without an extra copy if it is contiguous on the CPU.

        After `DamagedCheckpoint` the contents of `live` are undefined.
        """
        live = live.detach()
        plain = type(live) is Tensor and live.is_contiguous() and not live.is_conj() and not live.is_neg()
        if plain and live.device.type == "cpu":
            self._fill(name, live)
        else:
            with torch.no_grad():
                live.copy_(self(name))

    def _fill(self, name: str, tensor: Tensor) -> None:
        if tensor.nbytes:
            self._reader.read_into(name, tensor.reshape(-1).view(torch.uint8).numpy().data)
