"""Reads the tensors of an open checkpoint by name, one at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from relight.checkpoints.checkpoint_reader import CheckpointReader
from relight.training.state.shards import find_rows, is_sharded, local_part, wrap_like
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

    def like(self, name: str, live: Tensor | None) -> Tensor:
        """Return the tensor, split over the ranks as `live` is if it has the shape of `live` or was split before.

        Of such a tensor, only the rows of this rank are read.
        """
        spec = self._reader.spec(name)
        if live is None or not is_sharded(live) or not (spec.shape == tuple(live.shape) or self._reader.is_split(name)):
            return self(name)
        rows = find_rows(name, live, spec.shape)
        shape = (rows.end - rows.begin, *spec.shape[1:]) if spec.shape else ()
        local = torch.empty(shape, dtype=DTYPES[spec.dtype], device="cpu")
        self._fill(name, local, row=rows.begin)
        return wrap_like(live, local, spec.shape)

    def form(self, name: str) -> str:
        """Return the tensor's type and shape as `describe_form` does, without reading it."""
        spec = self._reader.spec(name)
        return describe_form(torch.empty(spec.shape, dtype=DTYPES[spec.dtype], device="meta"))

    def read_into(self, name: str, live: Tensor) -> None:
        """Read the tensor into `live`, which has the same form; without an extra copy if it is contiguous on the CPU.

        After `DamagedCheckpoint` the contents of `live` are undefined.
        """
        live = live.detach()
        row = find_rows(name, live).begin if is_sharded(live) else 0
        live = local_part(live)
        plain = type(live) is Tensor and live.is_contiguous() and not live.is_conj() and not live.is_neg()
        if plain and live.device.type == "cpu":
            self._fill(name, live, row=row)
        else:
            with torch.no_grad():
                read = torch.empty(live.shape, dtype=live.dtype, device="cpu")
                self._fill(name, read, row=row)
                live.copy_(read)

    def _fill(self, name: str, tensor: Tensor, *, row: int = 0) -> None:
        if tensor.nbytes:
            self._reader.read_rows_into(name, tensor.reshape(-1).view(torch.uint8).numpy().data, row=row)
