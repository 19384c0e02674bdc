"""Training states to save: a GPT's parameters and AdamW's two moments, scaled to any size, or mostly frozen."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


def make_state(nbytes: int, *, device: str = "cpu") -> State:
    """Make the parameters and moments of a GPT of about that size: many small tensors and a few large ones."""
    shapes = list_shapes(max(nbytes // 4 // 3, 100_000))
    generator = torch.Generator(device).manual_seed(0)
    parts = ("model.{}", "optimizer.{}.exp_avg", "optimizer.{}.exp_avg_sq")
    return {
        part.format(name): torch.randn(shape, generator=generator, device=device)
        for part in parts
        for name, shape in shapes.items()
    }


def make_frozen_state(nbytes: int, *, trained: float, moments: tuple[str, ...]) -> tuple[State, list[str]]:
    """Make weights of about that size, of which only the last layers are trained, with the moments of those layers.

    `trained` is the largest share of the numbers that is trained. Returns the state, and the names of the tensors that
    change from step to step.
    """
    shapes = list_shapes(max(nbytes // 4, 100_000))
    generator = torch.Generator().manual_seed(0)
    state = {f"model.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    left, changing = trained * sum(tensor.numel() for tensor in state.values()), []
    for name, tensor in reversed(state.items()):
        left -= tensor.numel()
        if left < 0:
            break
        changing.append(name)
    for name in list(changing):
        for moment in moments:
            key = f"{name.replace('model.', 'optimizer.', 1)}.{moment}"
            state[key] = torch.randn(state[name].shape, generator=generator)
            changing.append(key)
    return state, changing


def make_header(state: State, step: int) -> Any:
    """Make the header of a snapshot of `state`."""
    from relight.checkpoints.snapshot_header import SnapshotHeader
    from relight.training.state.snapshot import describe_tensors

    return SnapshotHeader(step=step, epoch=0, reason="periodic", time_s=time.time(), tensors=describe_tensors(state))


def flat_buffers(state: State) -> list[memoryview]:
    """Return the memory of each tensor, without copying it."""
    return [memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data) for tensor in state.values()]


def list_shapes(numbers: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a GPT's parameters by name, for about so many numbers."""
    layers = 12
    width = max(8, int((numbers / (12 * layers)) ** 0.5) // 8 * 8)
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (256, width), "norm.weight": (width,)}
    for layer in range(layers):
        shapes |= {
            f"blocks.{layer}.attention_norm.weight": (width,),
            f"blocks.{layer}.attention_in.weight": (3 * width, width),
            f"blocks.{layer}.attention_out.weight": (width, width),
            f"blocks.{layer}.mlp_norm.weight": (width,),
            f"blocks.{layer}.mlp_in.weight": (4 * width, width),
            f"blocks.{layer}.mlp_out.weight": (width, 4 * width),
        }
    return shapes
