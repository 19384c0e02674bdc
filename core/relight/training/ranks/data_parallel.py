"""Data-parallel training of a task: the device of each rank, the wrapped model, and values averaged over the ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from relight.errors import DeviceError
from relight.training.data.dealt_order import Deal
from relight.training.device import choose_device
from relight.training.metric_numbers import is_one_number, to_number
from relight.training.ranks.place import RankPlace


def choose_rank_device(name: str, place: RankPlace | None) -> torch.device:
    """Return the device of this rank for a config's `device`: on CUDA, each rank has a GPU of its own.

    Raises `DeviceError` if there are fewer GPUs than ranks, or all ranks would share one.
    """
    device = choose_device(name)
    if place is None or device.type == "cpu":
        return device
    if device.type != "cuda" or ":" in name:
        raise DeviceError(
            f"device={name} is one device, and there are {place.world_size} ranks. Use device=auto or cpu."
        )
    if (gpus := torch.cuda.device_count()) < place.world_size:
        raise DeviceError(
            f"There are {place.world_size} ranks and {gpus} GPU{'' if gpus == 1 else 's'}. Use --nproc {gpus}, or "
            "--set device=cpu."
        )
    return torch.device("cuda", place.local_rank)


class DataParallel:
    """Trains a task's model on its part of each batch, together with the other ranks."""

    def __init__(self, place: RankPlace, *, device: torch.device) -> None:
        """Start torch's default group, over which gradients and metrics are averaged."""
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        self.rank = place.rank
        self.deal = Deal(place.rank, place.world_size)
        self._device = device
        self._model: DistributedDataParallel | None = None

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model whose backward pass averages the gradients. All ranks start with rank 0's weights."""
        on_gpu = self._device.type == "cuda"
        # Looking for unused parameters also keeps DDP from arranging its buckets again after the first step. A place in
        # a bucket decides in which order three or more ranks add a gradient, so a resume would not be exact.
        self._model = DistributedDataParallel(
            model,
            device_ids=[self._device.index] if on_gpu else None,
            find_unused_parameters=self.deal.world_size > 2,
        )
        return self._model

    def average_next(self, *, gradients: bool) -> None:
        """Choose whether the next backward pass averages: only the last one before an update needs to."""
        assert self._model is not None
        self._model.require_backward_grad_sync = gradients

    def average(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the average of each value over the ranks, without waiting for a GPU."""
        return self._reduce(values, divisor=self.deal.world_size)

    def add(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sum of each value over the ranks."""
        return self._reduce(values, divisor=1)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every rank rank 0's buffers, as each forward pass in training does: a checkpoint has those only."""
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

    def _reduce(self, values: Mapping[str, Any], *, divisor: int) -> dict[str, Any]:
        if not values:
            return {}
        stacked = torch.stack([self._to_tensor(name, value) for name, value in values.items()])
        dist.all_reduce(stacked)
        return dict(zip(values, (stacked / divisor).unbind(), strict=True))

    def _to_tensor(self, name: str, value: Any) -> Tensor:
        if is_one_number(value):
            reduced: Tensor = value.detach().to(self._device, torch.float64).reshape(())
            return reduced
        return torch.tensor(to_number(name, value), dtype=torch.float64, device=self._device)
