"""The global random number generators of Python, NumPy and torch: capture their exact state cheaply, and restore it."""

from __future__ import annotations

import ctypes
import random
import sys
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

_MT19937_BYTES = 625 * 4  # key of 624 words and the position in it, as the C structs of Python and NumPy have them
_TORCH_HEAD_BYTES, _TORCH_KEPT_BYTES = 20, 24  # before and after the words of torch's engine
_MAY_HAVE_MPS = sys.platform == "darwin"
_PYTHON_VERSION = 3  # of the tuple that `random.getstate` returns


class PythonState(NamedTuple):
    """The state of Python's `random`: the position in its 624 words, the words (4 bytes each), and a stored Gaussian.

    `getstate` has the position last, and so do checkpoints.
    """

    raw: bytes
    gauss: float | None


class RngState(msgspec.Struct, frozen=True, gc=False):
    """The state of every global generator at one moment. `cuda` has one tensor for each device in use."""

    python: PythonState
    numpy: dict[str, Any]
    torch: Tensor
    cuda: tuple[Tensor, ...] = ()
    mps: Tensor | None = None


class RngRecorder:
    """Captures the generators repeatedly: about one microsecond each time, unless one has moved."""

    def __init__(self) -> None:
        self._numpy = NumpyGenerator()
        self._python = get_python_state()
        self._torch = torch.default_generator.get_state()
        self._torch_seen = b""
        self._last: RngState | None = None

    def capture(self) -> RngState:
        """Return the state of all generators now: the same object until one moves, and of each generator as well."""
        if _PYTHON_WORDS is None:
            python = get_python_state()
        else:
            python = self._python
            raw, gauss = _PYTHON_WORDS.copy(), random._inst.gauss_next  # type: ignore[attr-defined]
            if raw is not python.raw or gauss != python.gauss:
                python = self._python = PythonState(raw, gauss)
        numpy = self._numpy.state()
        seen = b"" if _TORCH_PLACES is None else b"".join(_TORCH_PLACES)
        if not seen or seen != self._torch_seen:
            self._torch, self._torch_seen = torch.default_generator.get_state(), seen
        last = self._last
        cuda = torch.cuda.default_generators  # none before CUDA is initialized
        if (
            last is None or python is not last.python or numpy is not last.numpy or self._torch is not last.torch
            or cuda or _MAY_HAVE_MPS
        ):  # fmt: skip
            last = self._last = RngState(
                python, numpy, self._torch, _capture_cuda() if cuda else (), _capture_mps() if _MAY_HAVE_MPS else None
            )
        return last


def get_python_state() -> PythonState:
    """Return the state of Python's `random`. Its words are copied in one piece; `getstate` would create 625 objects."""
    if _PYTHON_WORDS is None:
        _, words, gauss = random.getstate()
        return PythonState(_pack_words(words), gauss)
    return PythonState(_PYTHON_WORDS.copy(), random._inst.gauss_next)  # type: ignore[attr-defined]


def set_python_state(state: PythonState) -> None:
    """Put Python's `random` into `state`."""
    position, *words = array("I", state.raw)
    random.setstate((_PYTHON_VERSION, (*words, position), state.gauss))


def _pack_words(words: Sequence[int]) -> bytes:
    return array("I", (words[-1], *words[:-1])).tobytes()


class _Words:
    """The 624 words and the position of an MT19937 generator, read in place and copied only when they have changed.

    A draw moves the position; the 624th draw and a new seed change every word. So comparing the position and four
    words is enough: 20 bytes instead of 2,500.
    """

    def __init__(self, address: int, *, position: int, words: int) -> None:
        whole = memoryview((ctypes.c_ubyte * _MT19937_BYTES).from_address(address)).cast("B")
        self._whole = whole
        self._looked_at = (whole[position : position + 4], whole[words : words + 16])
        self._seen = b""
        self._copy = b""

    def copy(self) -> bytes:
        """Return position and words as they are in memory: the same object until they change."""
        seen = b"".join(self._looked_at)
        if seen != self._seen:
            self._copy = bytes(self._whole)
            self._seen = seen
        return self._copy


def _find_python_words() -> _Words | None:
    """Find where CPython stores the position and words of `random`; None unless a check confirms the address.

    CPython does not promise `struct { PyObject_HEAD; int index; uint32_t state[624]; }` (`_randommodule.c`), so two
    generators are read both ways, before and after a draw.
    """
    if sys.implementation.name != "cpython" or type(getattr(random, "_inst", None)) is not random.Random:
        return None
    if random.Random.__basicsize__ < object.__basicsize__ + _MT19937_BYTES:
        return None
    probe = random.Random(5)
    for generator in (random._inst, probe):
        found = _Words(id(generator) + object.__basicsize__, position=0, words=4)
        for _ in range(2):
            if found.copy() != _pack_words(generator.getstate()[1]):
                return None
            probe.random()
    return _Words(id(random._inst) + object.__basicsize__, position=0, words=4)


def _find_torch_places() -> tuple[memoryview, memoryview] | None:
    """Find the bytes of torch's CPU generator that every draw and every setting changes; None if that is not certain.

    They are seed, position and first words of its engine, and the Gaussians that it keeps for later. PyTorch does not
    promise where they are (`CPUGeneratorImpl.h`), so every kind of draw is tried with another generator first.
    """
    probe: Any = torch.Generator().manual_seed(5)
    words = probe.get_state().numpy()[24 : 24 + 8 * 624].reshape(624, 8)[:, :4].tobytes()
    start = ctypes.string_at(probe._cdata, 256).find(words[:16]) if hasattr(probe, "_cdata") else -1
    if start < _TORCH_HEAD_BYTES or ctypes.string_at(probe._cdata + start, len(words)) != words:
        return None

    def look_at(generator: Any) -> tuple[memoryview, memoryview]:
        head = (ctypes.c_ubyte * (_TORCH_HEAD_BYTES + 16)).from_address(generator._cdata + start - _TORCH_HEAD_BYTES)
        kept = (ctypes.c_ubyte * _TORCH_KEPT_BYTES).from_address(generator._cdata + start + len(words))
        return memoryview(head).cast("B"), memoryview(kept).cast("B")

    places = look_at(probe)
    seen = [b"".join(places)]
    for dtype in (torch.float32, torch.float64):
        for shape in ((), (), (700,)):  # two Gaussians at a time, of which one is kept
            torch.randn(shape, generator=probe, dtype=dtype, device="cpu")
            seen.append(b"".join(places))
            torch.rand(shape, generator=probe, dtype=dtype, device="cpu")
            seen.append(b"".join(places))
    probe.manual_seed(6)
    seen.append(b"".join(places))
    return look_at(torch.default_generator) if len(set(seen)) == len(seen) else None


class NumpyGenerator:
    """NumPy's global generator. Its `get_state` costs 33 microseconds; an unmoved generator is recognized in one.

    A draw changes the raw words, except the second of each pair of legacy Gaussian draws, which uses the number that
    the first one stored. So only a generator without a stored number counts as unmoved. Setting the state changes the
    words too; `set_numpy_state` also counts, because the stored number may be all that changes.
    """

    times_set = 0

    def __init__(self) -> None:
        self._bit_generator: Any = None
        self._words: _Words | None = None
        self._raw: bytes | None = None
        self._times_set = -1
        self._last: Any = {}

    def state(self) -> dict[str, Any]:
        """Return NumPy's own state dictionary; callers must not change it."""
        bit_generator = _NUMPY._bit_generator  # looked up each time: np.random.set_bit_generator swaps it
        if bit_generator is not self._bit_generator:
            self._bit_generator, self._raw = bit_generator, None
            ours = type(bit_generator) is np.random.MT19937
            address = bit_generator.ctypes.state_address if ours else 0
            self._words = _Words(address, position=_MT19937_BYTES - 4, words=0) if ours else None
        raw = None if self._words is None else self._words.copy()
        if (
            raw is None
            or raw is not self._raw
            or self._times_set != NumpyGenerator.times_set
            or self._last["has_gauss"]
        ):
            self._last = np.random.get_state(legacy=False)
            self._raw = raw
            self._times_set = NumpyGenerator.times_set
        state: dict[str, Any] = self._last
        return state


def restore_rng(state: RngState) -> None:
    """Put every generator into `state`. Call this last, right before the first batch: building and loading draw."""
    set_python_state(state.python)
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
    numpy_state = dict(state.numpy)
    if "key" in (inner := numpy_state["state"]):  # MT19937; other bit generators have ints only
        numpy_state["state"] = {**inner, "key": array("I", inner["key"].tolist()).tobytes()}
    tree = {
        "python": {
            "version": _PYTHON_VERSION,
            "words": state.python.raw[4:] + state.python.raw[:4],
            "gauss": state.python.gauss,
        },
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
        python=PythonState(python["words"][-4:] + python["words"][:-4], python["gauss"]),
        numpy=numpy_state,
        torch=tensors["torch"],
        cuda=tuple(tensors[name] for name in cuda),
        mps=tensors.get("mps"),
    )


def _capture_cuda() -> tuple[Tensor, ...]:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # in a forked process
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


_NUMPY: Any = np.random.mtrand._rand
_PYTHON_WORDS = _find_python_words()
_TORCH_PLACES = _find_torch_places()
