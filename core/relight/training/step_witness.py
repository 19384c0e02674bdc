"""Leaves a witness of each step: digests of its batches, the generators, the learning rates and the weights."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from torch.optim import Optimizer

from relight.metrics.witness_file import Digests, WitnessWriter
from relight.training.state.rng import RngState

_MASK = 2**64 - 1


class StepWitness:
    """Digests each step of one attempt, and writes the digests to the attempt's witness file."""

    def __init__(self, path: Path) -> None:
        self._writer = WitnessWriter(path)
        self._generators = GeneratorDigest()

    def note(
        self, step: int, *, batch: int, generators: RngState, optimizers: Iterable[Optimizer], weights: int
    ) -> Digests:
        """Write the digests of a finished step and return them: about three microseconds."""
        digests = Digests(batch & _MASK, self._generators.of(generators), _digest_rates(optimizers), weights)
        self._writer.write(step, digests)
        return digests

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class GeneratorDigest:
    """Digests captured states of the CPU generators. A GPU's generator follows the training on it, which is not."""

    def __init__(self) -> None:
        self._python: Any = None
        self._numpy: Any = None
        self._seed = 0

    def of(self, state: RngState) -> int:
        """Return a digest of Python's, NumPy's and torch's generator. One that has not moved costs nothing."""
        if state.python != self._python or state.numpy is not self._numpy:
            self._python, self._numpy = state.python, state.numpy
            digest = xxhash.xxh3_64(state.python.raw)
            digest.update(repr(state.python.gauss).encode())
            _add(digest, state.numpy)
            self._seed = digest.intdigest()
        tensor = state.torch
        raw = ctypes.string_at(tensor.data_ptr(), tensor.nbytes)
        return xxhash.xxh3_64_intdigest(raw, self._seed) or 1


def _add(digest: Any, state: dict[str, Any]) -> None:
    """Add a NumPy state to a digest."""
    for value in state.values():
        if isinstance(value, dict):
            _add(digest, value)
        else:
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())


def _digest_rates(optimizers: Iterable[Optimizer]) -> int:
    rates = [group.get("lr") for optimizer in optimizers for group in optimizer.param_groups]
    # A rate in a tensor is not read: on a GPU that would wait for it.
    known = tuple([rate for rate in rates if type(rate) is float])
    return (hash(known) & _MASK or 1) if known else 0
