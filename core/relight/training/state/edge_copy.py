"""Keeps an object's state of a step edge while the object changes: small values are copied, large tensors watched."""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import msgspec
from torch import Tensor

LARGE_BYTES = 1 << 20
"""A tensor above this is not copied at every edge: it would cost as much as the step."""

_PLAIN = frozenset((int, float, str, bool, type(None)))
_FROZEN = _PLAIN | {bytes, complex}


class MovedSince(Exception):
    """A large tensor has changed since the edge, so its value at the edge is lost."""


class BuiltLater(msgspec.Struct, frozen=True):
    """A state of a step edge that is built from what was kept there: few edges are ever saved."""

    build: Callable[..., Any]
    kept: tuple[Any, ...]
    """The arguments, which may be built later themselves."""


class _Watched:
    """A large tensor, and its version counter at the edge."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.version = tensor._version


def copy_state(state: Any) -> Any:
    """Copy a state that may change later. A flat dictionary of numbers, the usual case, costs almost nothing."""
    if type(state) is dict and _PLAIN.issuperset(map(type, state.values())):
        return state.copy()
    return _copy(state)


def open_copy(copied: Any) -> Any:
    """Return the state that `copied` is a copy of. Raise `MovedSince` when a large tensor was written to since."""
    kind = type(copied)
    if kind is BuiltLater:
        return copied.build(*map(open_copy, copied.kept))
    if kind is _Watched:
        if copied.tensor._version != copied.version:
            raise MovedSince
        return copied.tensor
    return _rebuild(copied, open_copy)


def _copy(value: Any) -> Any:
    if type(value) in _FROZEN:
        return value
    if isinstance(value, Tensor):
        # An inference tensor has no version counter.
        watch = value.nbytes > LARGE_BYTES and not value.is_inference()
        return _Watched(value.detach()) if watch else value.detach().clone()
    rebuilt = _rebuild(value, _copy)
    return copy.deepcopy(value) if rebuilt is value else rebuilt


def _rebuild(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a container of the same kind with `change` applied to each item; return anything else unchanged."""
    kind = type(value)
    if kind is dict or kind is OrderedDict:
        return kind((key, change(inner)) for key, inner in value.items())
    if kind is list or kind is tuple:
        return kind([change(inner) for inner in value])
    if kind is deque:
        return deque((change(inner) for inner in value), value.maxlen)
    return value
