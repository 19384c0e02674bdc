"""The global random number generators of Python, NumPy and torch: their exact state, captured cheaply and put back."""

from __future__ import annotations

import ctypes
import random
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MT19937_BYTES = 625 * 4  # key of 624 words and the position in it, as numpy's C struct has them


@dataclass(frozen=True)
class RngState:
    """The state of every global generator at one moment. `cuda` has one tensor for each device that is in use."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch: Tensor
    cuda: tuple[Tensor, ...] = ()
    mps: Tensor | None = None


class RngRecorder:
    """Captures the generators, again and again: about 10 microseconds, as long as NumPy's has not moved."""

    def __init__(self) -> None:
        self._numpy = NumpyGenerator()

    def capture(self) -> RngState:
        """Return the state of all generators now."""
        return RngState(
            python=random.getstate(),
            numpy=self._numpy.state(),
            torch=torch.default_generator.get_state(),
            cuda=_capture_cuda(),
            mps=_capture_mps(),
        )


class NumpyGenerator:
    """NumPy's global generator, whose own `get_state` costs 33 microseconds: unmoved, it is recognised in one.

    A draw moves the raw words, but for the second of each pair of legacy Gaussian draws, which takes the number that
    the first one put by. So only a generator that has none put by is trusted to be unmoved. Setting it is noticed by
    the words too, and when it is done here, by a count: the number put by may be all that is set.
    """

    times_set = 0

    def __init__(self) -> None:
        self._raw: bytes | None = None
        self._times_set = -1
        self._last: Any = {}

    def state(self) -> dict[str, Any]:
        """Return NumPy's own state dictionary; callers must not change it."""
        raw = _read_numpy_words()
        if raw is None or raw != self._raw or self._times_set != NumpyGenerator.times_set or self._last["has_gauss"]:
            self._last = np.random.get_state(legacy=False)
            self._raw = raw
            self._times_set = NumpyGenerator.times_set
        state: dict[str, Any] = self._last
        return state


def restore_rng(state: RngState) -> None:
    """Put every generator into `state`. Do it last, right before the first batch: building and loading draw numbers."""
    random.setstate(state.python)
    set_numpy_state(state.numpy)
    torch.default_generator.set_state(state.torch)
    if state.cuda and torch.cuda.is_available():
        for device, device_state in enumerate(state.cuda[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(device_state, device)
    if state.mps is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state.mps)


def set_numpy_state(state: dict[str, Any]) -> None:
    """Put NumPy's global generator into `state`."""
    np.random.set_state(state)
    NumpyGenerator.times_set += 1


def seed_everything(seed: int) -> None:
    """Seed every global generator."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def encode_rng(state: RngState) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Split `state` into a tree of plain values and named tensors: `torch`, `cuda.0`, `mps`."""
    version, words, gauss = state.python
    numpy_state = dict(state.numpy)
    if "key" in (inner := numpy_state["state"]):  # MT19937; other bit generators have ints only
        numpy_state["state"] = {**inner, "key": array("I", inner["key"].tolist()).tobytes()}
    tree = {
        "python": {"version": version, "words": array("I", words).tobytes(), "gauss": gauss},
        "numpy": {key: _plain(value) for key, value in numpy_state.items()},
    }
    tensors = {"torch": state.torch}
    tensors.update({f"cuda.{device}": tensor for device, tensor in enumerate(state.cuda)})
    if state.mps is not None:
        tensors["mps"] = state.mps
    return tree, tensors


def decode_rng(tree: dict[str, Any], tensors: dict[str, Tensor]) -> RngState:
    """The reverse of `encode_rng`."""
    python = tree["python"]
    numpy_state = dict(tree["numpy"])
    if isinstance(key := numpy_state["state"].get("key"), bytes):
        numpy_state["state"] = {**numpy_state["state"], "key": np.frombuffer(key, dtype=np.uint32).copy()}
    cuda = sorted((name for name in tensors if name.startswith("cuda.")), key=lambda name: int(name[5:]))
    return RngState(
        python=(python["version"], tuple(array("I", python["words"])), python["gauss"]),
        numpy=numpy_state,
        torch=tensors["torch"],
        cuda=tuple(tensors[name] for name in cuda),
        mps=tensors.get("mps"),
    )


def _read_numpy_words() -> bytes | None:
    """Return the raw words of NumPy's global MT19937; None when the global generator is of another kind."""
    generator = np.random.mtrand._rand._bit_generator  # looked up each time: np.random.set_bit_generator swaps it
    if type(generator) is not np.random.MT19937:
        return None
    return ctypes.string_at(generator.ctypes.state_address, _MT19937_BYTES)


def _capture_cuda() -> tuple[Tensor, ...]:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ()
    return tuple(generator.get_state() for generator in torch.cuda.default_generators)


def _capture_mps() -> Tensor | None:
    if not torch.backends.mps.is_available():
        return None
    state: Tensor = torch.mps.get_rng_state()
    return state


def _plain(value: Any) -> Any:
    """Turn numpy scalars, also inside a dictionary, into Python's own numbers."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value.item() if isinstance(value, np.generic) else value
