"""Leaves a witness of each step: digests of its batches, the generators, the learning rates and the weights.

Nothing is digested again that has not moved, and the session decides when to write: short steps share one write. A kill
may cost the witnesses of the last short steps, and then less is compared.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from torch.optim import Optimizer

from relight.metrics.witness_file import WitnessWriter
from relight.training.state.rng import RngState

_MASK = 2**64 - 1
Witness = tuple[int, int, int, int, int]
"""A step, and its digests in the order of `Digests`."""


class StepWitness:
    """Digests the steps of one attempt, and writes the digests to the attempt's witness file."""

    def __init__(self, path: Path) -> None:
        self._writer = WitnessWriter(path)
        self._generators = GeneratorDigest()
        self._noted: list[Witness] = []

    def note(
        self, step: int, *, batch: int, generators: RngState | None, optimizers: Iterable[Optimizer], weights: bytes
    ) -> None:
        """Note a finished step: about one microsecond. `batch` 0, `generators` None: nothing was observed."""
        rates = _read_rates(optimizers)
        self._noted.append((
            step,
            batch & _MASK,
            0 if generators is None else self._generators.of(generators),
            (hash(rates) & _MASK or 1) if rates else 0,
            xxhash.xxh3_64_intdigest(weights) if weights else 0,
        ))  # fmt: skip

    def flush(self) -> list[Witness]:
        """Write what was noted since the last call, and return it."""
        noted = self._noted
        if noted:
            self._noted = []
            self._writer.write(noted)
        return noted

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class GeneratorDigest:
    """Digests captured states of the CPU generators. A GPU's generator follows the training on it, which is not."""

    def __init__(self) -> None:
        self._last: RngState | None = None
        self._python: Any = None
        self._numpy: Any = None
        self._seed = 0
        self._digest = 0

    def of(self, state: RngState) -> int:
        """Return a digest of Python's, NumPy's and torch's generator. What has not moved is the same object."""
        if state is self._last:
            return self._digest
        if state.python is not self._python or state.numpy is not self._numpy:
            self._python, self._numpy = state.python, state.numpy
            digest = xxhash.xxh3_64(state.python.raw)
            digest.update(repr(state.python.gauss).encode())
            _add(digest, state.numpy)
            self._seed = digest.intdigest()
        drawn = ctypes.string_at(state.torch.data_ptr(), state.torch.nbytes)
        self._last, self._digest = state, self._seed ^ xxhash.xxh3_64_intdigest(drawn) or 1
        return self._digest


def _add(digest: Any, state: dict[str, Any]) -> None:
    """Add a NumPy state to a digest."""
    for value in state.values():
        if isinstance(value, dict):
            _add(digest, value)
        else:
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())


def _read_rates(optimizers: Iterable[Optimizer]) -> tuple[float, ...]:
    """Return the learning rates. One in a tensor is not read: on a GPU that would wait for it."""
    found = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            rate = group.get("lr")
            if type(rate) is float:
                found.append(rate)
    return tuple(found)
