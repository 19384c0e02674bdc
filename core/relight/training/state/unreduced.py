"""Gradients that a rank has gathered and not yet exchanged with the others, so that each rank has its own.

DDP gathers them inside `no_sync()` in the parameters' `grad`. FSDP2 does after `set_requires_gradient_sync(False)`,
outside the parameters: for whole tensors, which each rank keeps until the next backward pass that synchronizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relight.checkpoints.snapshot_header import TensorRef
from relight.training.state.shards import is_sharded, local_part
from relight.training.state.state_tree import TensorSource


@dataclass(frozen=True)
class Gathered:
    """A saved gradient that a rank restores as its own: the average of those that `ranks` ranks had gathered."""

    names: tuple[str, ...]
    """Of the tensors; a rank that had gathered nothing for this parameter has none."""
    ranks: int


def read_gradient(saved: TensorRef | Gathered, read: TensorSource, live: Tensor) -> Tensor:
    """Return a saved gradient of the parameter `live`, on its device; one that was `Gathered` is whole."""
    if isinstance(saved, TensorRef):
        return read.like(saved.name, live).to(live.device)
    total = read(saved.names[0])
    for name in saved.names[1:]:
        total += read(name)
    return (total if saved.ranks == 1 else total / saved.ranks).to(live.device)


class PendingGradients:
    """What FSDP2 keeps for the parameters of some modules until their gradients are synchronized."""

    def __init__(self, modules: Iterable[Any]) -> None:
        """`modules` are those that `fully_shard` was called with."""
        self._groups = [group for module in modules for group in _list_groups(module)]
        self._by_parameter = {id(each.sharded_param): each for group in self._groups for each in group.fsdp_params}

    @property
    def is_half_reduced(self) -> bool:
        """Whether a module waits for its all-reduce (`set_requires_all_reduce(False)`), which cannot be saved."""
        return any(getattr(group, "_partial_reduce_output", None) is not None for group in self._groups)

    def find(self, parameter: Tensor) -> Tensor | None:
        """Return what this rank has gathered for a parameter; None if there is nothing."""
        of = self._by_parameter.get(id(parameter))
        if of is None:
            return None
        parts = [of.unsharded_accumulated_grad, getattr(getattr(of, "_unsharded_param", None), "grad", None)]
        found = [local_part(part) for part in parts if part is not None]
        return None if not found else found[0] if len(found) == 1 else found[0] + found[1]

    def put(self, parameter: Tensor, gradient: Tensor | None) -> None:
        """Let `gradient` be what this rank has gathered for a parameter."""
        of = self._by_parameter[id(parameter)]
        if (whole := getattr(of, "_unsharded_param", None)) is not None:
            whole.grad = None
        wanted = getattr(of, "reduce_dtype", None)
        of.unsharded_accumulated_grad = gradient if gradient is None or wanted is None else gradient.to(wanted)


def put_gradient(
    parameter: Tensor, *, reduced: Tensor | None, gathered: Tensor | None, pending: PendingGradients
) -> None:
    """Give a parameter its gradient: the part that is everyone's, and the part that only this rank has."""
    if is_sharded(parameter):
        pending.put(parameter, gathered)
        parameter.grad = reduced
    elif reduced is None or gathered is None:
        parameter.grad = gathered if reduced is None else reduced
    else:
        with torch.no_grad():
            parameter.grad = reduced + gathered


def _list_groups(module: Any) -> Iterator[Any]:
    """Yield PyTorch's own records of a module that `fully_shard` was called with. They have no public interface."""
    state = module._get_fsdp_state()
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:  # before PyTorch 2.12 there was one at most
        groups = [state._fsdp_param_group]
    yield from (group for group in groups if group is not None)
