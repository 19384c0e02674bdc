"""Seeds derived from other seeds: one for each sample, and one for each generator that a script or task creates."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

VALIDATION_EPOCH = -1
"""The epoch number for samples that must look the same every time."""

Seeds = npt.NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_POSITIVE = np.uint64(2**63 - 1)


def sample_seeds(indices: npt.NDArray[Any], *, seed: int, epoch: int) -> Seeds:
    """Return one seed below 2**63 for each sample: SplitMix64 (Steele et al., 2014) chained over the three."""
    state = np.array([seed], dtype=np.uint64)
    state = _mix(state) ^ np.array([epoch], dtype=np.int64).astype(np.uint64)
    seeds: Seeds = _mix(_mix(state) ^ indices.astype(np.uint64)) & _POSITIVE
    return seeds


def _mix(values: Seeds) -> Seeds:
    values = values + _GAMMA
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))


def mix_seeds(seed: int, *parts: int) -> int:
    """Return a seed in [0, 2**63) that depends on all of these."""
    mixed = seed % 2**63
    for part in parts:
        mixed = int(sample_seeds(np.array([part % 2**63]), seed=mixed, epoch=0)[0])
    return mixed
