"""The three global random generators that a data set may draw from: captured, restored and seeded."""

from __future__ import annotations

import random
from typing import Any, Protocol

import numpy as np
import torch

from relight.training.state.rng import NumpyGenerator, get_python_state, set_numpy_state, set_python_state


class GlobalGenerator(Protocol):
    """One of the three global generators that a data set may draw from."""

    def capture(self) -> Any:
        """Return the state, as something that compares by `==`."""

    def restore(self, state: Any) -> None:
        """Go back to a captured state."""

    def seed(self, seed: int) -> None:
        """Seed the generator."""


class PythonGenerator:
    """The generator behind `random.random()`."""

    def capture(self) -> Any:
        """Return the state."""
        return get_python_state()

    def restore(self, state: Any) -> None:
        """Go back to a captured state."""
        set_python_state(state)

    def seed(self, seed: int) -> None:
        """Seed the generator."""
        random.seed(seed)


class NumpyGlobalGenerator:
    """The generator behind `np.random.rand()`."""

    def __init__(self) -> None:
        self._generator = NumpyGenerator()

    def capture(self) -> Any:
        """Return the state: the same object as long as it has not moved."""
        return _NumpyState(self._generator.state())

    def restore(self, state: Any) -> None:
        """Go back to a captured state."""
        set_numpy_state(state.state)

    def seed(self, seed: int) -> None:
        """Seed the generator."""
        np.random.seed(seed & 0xFFFFFFFF)


class TorchGenerator:
    """The CPU generator behind `torch.rand()`; a data set has no business with a GPU's."""

    def capture(self) -> Any:
        """Return the state."""
        return torch.default_generator.get_state().numpy().tobytes()

    def restore(self, state: Any) -> None:
        """Go back to a captured state."""
        torch.default_generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

    def seed(self, seed: int) -> None:
        """Seed the generator. Not with `torch.manual_seed`, which looks for every kind of GPU (125 microseconds)."""
        torch.default_generator.manual_seed(seed)


class _NumpyState:
    """Compares NumPy's state dictionaries, which hold arrays."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _NumpyState):
            return NotImplemented
        if self.state is other.state:
            return True
        return repr_state(self.state) == repr_state(other.state)

    __hash__ = None  # type: ignore[assignment]


def repr_state(state: dict[str, Any]) -> tuple[Any, ...]:
    """Flatten a NumPy state dictionary to something that compares by `==`."""
    flat: list[Any] = []
    for key, value in sorted(state.items()):
        if isinstance(value, dict):
            flat.append((key, repr_state(value)))
        else:
            flat.append((key, value.tobytes() if isinstance(value, np.ndarray) else value))
    return tuple(flat)


def global_generators() -> tuple[GlobalGenerator, ...]:
    """Return the three generators of this process."""
    return PythonGenerator(), NumpyGlobalGenerator(), TorchGenerator()
