"""Random number generators that a script or task creates for itself: read, restore and seed their exact state.

`torch.Generator`, `random.Random`, `numpy.random.Generator` and `numpy.random.RandomState`.
"""

from __future__ import annotations

import random
from array import array
from typing import Any, TypeGuard

import numpy as np
import torch
import xxhash

from relight.checkpoints.typed_json import encode_state

OwnGenerator = torch.Generator | random.Random | np.random.Generator | np.random.RandomState

_KINDS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


def is_generator(value: Any) -> TypeGuard[OwnGenerator]:
    """Tell whether `value` is a generator whose state can be read; `random.SystemRandom` has none."""
    return isinstance(value, _KINDS) and not isinstance(value, random.SystemRandom)


def read_generator(generator: OwnGenerator) -> dict[str, Any]:
    """Return the generator's kind and state: plain values, NumPy arrays and, for torch, one tensor."""
    if isinstance(generator, torch.Generator):
        return {"kind": "torch", "device": str(generator.device), "state": generator.get_state()}
    if isinstance(generator, random.Random):
        version, words, gauss = generator.getstate()
        return {"kind": "python", "version": version, "words": array("I", words).tobytes(), "gauss": gauss}
    if isinstance(generator, np.random.RandomState):
        return {"kind": "numpy legacy", "state": generator.get_state(legacy=False)}
    return {"kind": "numpy", "state": generator.bit_generator.state}


def write_generator(generator: OwnGenerator, saved: dict[str, Any]) -> None:
    """Put the generator into a saved state. Raise `ValueError` when the state is of another kind of generator."""
    kind = read_generator(generator)["kind"]
    if saved.get("kind") != kind:
        raise ValueError(f"it is a {kind} generator now, and a {saved.get('kind')} generator was saved")
    if isinstance(generator, torch.Generator):
        generator.set_state(saved["state"])
    elif isinstance(generator, random.Random):
        generator.setstate((saved["version"], tuple(array("I", saved["words"])), saved["gauss"]))
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(saved["state"])
    else:
        generator.bit_generator.state = saved["state"]


def seed_generator(generator: OwnGenerator, seed: int) -> None:
    """Seed the generator again with `seed`, a number in [0, 2**63)."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, random.Random):
        generator.seed(seed)
    elif isinstance(generator, np.random.RandomState):
        # Through its state, because bit generators other than MT19937 treat seed() differently.
        generator.set_state(dict(type(generator._bit_generator)(np.random.SeedSequence(seed)).state))
    else:
        generator.bit_generator.state = type(generator.bit_generator)(np.random.SeedSequence(seed)).state


def beginning_of(generator: OwnGenerator) -> int:
    """Return a number in [0, 2**63) that differs for generators with different seeds."""
    if isinstance(generator, torch.Generator):
        return generator.initial_seed() % 2**63
    return xxhash.xxh3_64_intdigest(encode_state(read_generator(generator))) % 2**63
