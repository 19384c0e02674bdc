"""Adapters for tracked objects that have no `state_dict`: random number generators and single tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relight.training.state.own_generators import OwnGenerator, is_generator, read_generator, write_generator
from relight.training.state.state_errors import StateMismatch
from relight.training.state.state_tree import describe_form


class TrackedGenerator:
    """A generator that a script or task draws from: `torch.Generator`, `random.Random`, NumPy's two kinds."""

    def __init__(self, name: str, generator: OwnGenerator) -> None:
        self._name = name
        self._generator = generator

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's kind and state."""
        return read_generator(self._generator)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the generator. Raise `StateMismatch` when another kind was saved."""
        try:
            write_generator(self._generator, state)
        except (ValueError, TypeError, RuntimeError) as error:
            raise StateMismatch(
                f"The checkpoint does not fit '{self._name}': {error}. Resume with the code that saved it."
            ) from None


class TrackedTensor:
    """A tensor that belongs to no module: a learned temperature, an optimized image, a running sum."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        self._name = name
        self.tensor = tensor

    def state_dict(self) -> dict[str, Any]:
        """Return the tensor."""
        return {"value": self.tensor.detach()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy the saved values in. Raise `StateMismatch` when shape or type differ."""
        saved = state["value"]
        if describe_form(saved) != describe_form(self.tensor):
            raise StateMismatch(
                f"The checkpoint does not fit '{self._name}': it is {describe_form(self.tensor)} now, but was "
                f"{describe_form(saved)} when it was saved. Resume with the code that saved it."
            )
        with torch.no_grad():
            self.tensor.copy_(saved)


def adapt_value(name: str, tracked: Any) -> TrackedGenerator | TrackedTensor | None:
    """Return an adapter that saves and restores `tracked`; None when it is neither a generator nor a tensor."""
    if is_generator(tracked):
        return TrackedGenerator(name, tracked)
    if isinstance(tracked, Tensor) and tracked.is_leaf:
        return TrackedTensor(name, tracked)
    return None
