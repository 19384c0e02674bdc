"""Leaves a witness of each step: digests of its batches, the generators, the learning rates and the weights.

Between steps of less than a millisecond even a digest is felt. So what a step computed is only noted, and digested and
written for several steps at a time. A kill may cost the witnesses of the last short steps, and then less is compared.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from torch.optim import Optimizer

from relight.metrics.witness_file import Digests, WitnessWriter
from relight.training.state.rng import PythonState, RngState

_MASK = 2**64 - 1
_MOST_NOTED = 16
_SHORT_STEP_S = 0.001
"""A longer step is written at once: it does not feel it, and may be all that a resume can be compared with."""


class StepWitness:
    """Digests the steps of one attempt, and writes the digests to the attempt's witness file."""

    def __init__(self, path: Path) -> None:
        self._latest = (0, 0, 0, 0, 0)
        self._writer = WitnessWriter(path)
        self._generators = GeneratorDigest()
        self._noted: list[_Note] = []
        self._last_s = 0.0

    def note(
        self,
        step: int,
        *,
        batch: int,
        generators: RngState,
        optimizers: Iterable[Optimizer],
        weights: bytes,
        now: float,
    ) -> None:
        """Note a finished step, which ended at the time `now`: about one microsecond."""
        noted = self._noted
        state = generators.torch
        drawn = xxhash.xxh3_64_intdigest(ctypes.string_at(state.data_ptr(), state.nbytes))
        noted.append((step, batch, generators.python, generators.numpy, drawn, _read_rates(optimizers), weights))
        if len(noted) >= _MOST_NOTED or not 0.0 <= now - self._last_s < _SHORT_STEP_S:
            self.flush()
        self._last_s = now

    def take_latest(self) -> Digests:
        """Write what was noted, and return the digests of the last step."""
        self.flush()
        return Digests(*self._latest[1:])

    def flush(self) -> None:
        """Digest and write what was noted."""
        if not self._noted:
            return
        found = [
            (
                step,
                batch & _MASK,
                self._generators.of(python, numpy, drawn),
                (hash(rates) & _MASK or 1) if rates else 0,
                xxhash.xxh3_64_intdigest(weights) if weights else 0,
            )
            for step, batch, python, numpy, drawn, rates, weights in self._noted
        ]
        self._noted.clear()
        self._writer.write(found)
        self._latest = found[-1]

    def close(self) -> None:
        """Write what was noted, and close the file."""
        self.flush()
        self._writer.close()


_Note = tuple[int, int, PythonState, dict[str, Any], int, tuple[float, ...], bytes]
"""Step, batch, generators of Python and NumPy, a digest of torch's, rates, and the sample of the weights."""


class GeneratorDigest:
    """Digests captured states of the CPU generators. A GPU's generator follows the training on it, which is not."""

    def __init__(self) -> None:
        self._python: Any = None
        self._numpy: Any = None
        self._seed = 0

    def of(self, python: PythonState, numpy: dict[str, Any], torch: int) -> int:
        """Return a digest of Python's, NumPy's and torch's generator; `torch` is a digest of its own already."""
        if python is not self._python or numpy is not self._numpy:
            self._python, self._numpy = python, numpy
            digest = xxhash.xxh3_64(python.raw)
            digest.update(repr(python.gauss).encode())
            _add(digest, numpy)
            self._seed = digest.intdigest()
        return self._seed ^ torch or 1


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
