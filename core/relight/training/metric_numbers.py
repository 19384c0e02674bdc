"""Turns what a training logs into numbers. What is not one number costs a warning and a NaN, never a step."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from numbers import Complex, Number, Real
from typing import Any

import torch
from torch import Tensor

from relight.metrics.metric_names import clean_name

Values = Mapping[str, "Tensor | float"]
_SHOWN_CHARACTERS = 60
_MOST_WARNINGS = 100
"""For a script that makes up a new name for each bad value."""
_warned: set[str] = set()
_log = logging.getLogger("relight")


def to_number(name: str, value: Any) -> float:
    """Convert one metric to a float: NaN, with one warning per name, if it is not one real number."""
    if type(value) is float:
        return value
    try:
        if isinstance(value, Tensor):
            if value.numel() == 1 and not isinstance(number := value.item(), complex):
                return float(number)
        elif _has_dtype(value):
            if value.size == 1 and value.dtype.kind in "biuf":
                return float(value.item())
        elif not isinstance(value, complex):
            return float(value)
    except Exception:  # None, a text, 10**400, a tensor on the device "meta", an object with a broken __float__, …
        pass
    return _warn(name, value)


def to_numbers(values: Mapping[Any, Any]) -> dict[str, float]:
    """Convert metrics to floats, under names that files can hold."""
    return {name: to_number(name, value) for name, value in clean_names(values).items()}


def clean_names(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values under names that files can hold, with one warning per name that was changed."""
    cleaned = {}
    for name, value in values.items():
        kept = clean_name(name)
        if kept != name and _may_warn(f"name {kept}"):
            _log.warning("A metric's name is %s. It is logged as '%s'.", _show(name), kept)
        cleaned[kept] = value
    return cleaned


def is_one_number(value: Any) -> bool:
    """Tell whether it is a tensor that holds exactly one real number, with which one can compute."""
    return (
        isinstance(value, Tensor)
        and value.numel() == 1
        and value.layout == torch.strided
        and not (value.is_complex() or value.is_meta or value.is_quantized)
    )


def _has_dtype(value: Any) -> bool:
    """Tell whether it is a scalar or an array of NumPy, or of a library with the same interface."""
    return hasattr(value, "dtype") and hasattr(value, "size") and hasattr(value, "item")


def _may_warn(name: str) -> bool:
    if name in _warned or len(_warned) >= _MOST_WARNINGS:
        return False
    _warned.add(name)
    return True


def _warn(name: str, value: Any) -> float:
    name = clean_name(name)
    if _may_warn(name):
        what, advice = _explain(value)
        _log.warning("The metric '%s' is %s, so it is logged as NaN. %s", name, what, advice)
    return math.nan


def _explain(value: Any) -> tuple[str, str]:
    """Return what the value is, and what to pass instead."""
    if value is None:
        return "None", "Leave it out of the steps in which it has no value, or pass float('nan')."
    shape = getattr(value, "shape", None)
    if shape is not None and math.prod(shape) != 1:
        kind = "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        return f"{kind} of shape {list(shape)}", "Pass one number, such as its mean: value.mean()."
    if isinstance(value, Tensor) and value.is_meta:
        return "a tensor on the device 'meta', which has no value", "Pass a tensor with a value."
    dtype = getattr(value, "dtype", None)
    if (isinstance(value, Complex) and not isinstance(value, Real)) or "complex" in str(dtype):
        return f"{_show(value)}, a complex number", "Pass one real number, such as its absolute value: abs(value)."
    if isinstance(value, Number):
        return f"{_show(value)}, which is too large for a float", "Pass a smaller number, such as its logarithm."
    return f"{_show(value)} ({type(value).__name__})", "Pass one number: a float or a 0-d tensor."


def _show(value: Any) -> str:
    try:
        text = ascii(value)
    except Exception:  # 10**5000 has no text, and objects may have a broken __repr__
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
