"""Typed JSON: ordinary JSON, with one-key objects such as `{"$tuple": [...]}` for values that JSON does not have.

A plain JSON round trip turns int keys into strings (and MultiStepLR never decays again) and tuples into lists, and JSON
has no infinity. Here every value comes back with its type, or is refused with the name of its owner. Nothing in the
file can make the reader import or run code.
"""

from __future__ import annotations

import base64
import binascii
import enum
import math
import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from relight.checkpoints.snapshot_header import TensorRef
from relight.errors import DamagedFile, UnsupportedState

MAX_DEPTH = 100
_MAX_JSON_DEPTH = 4 * MAX_DEPTH
_SMALL_INT = range(-(2**63), 2**63)
_FACTORIES: dict[str, Any] = {"none": None, "list": list, "dict": dict, "set": set, "int": int, "float": float}
_NUMPY_KINDS = "biufc"
_NUMPY_TYPE = re.compile(r"[<|][biufc][0-9]{1,2}\Z")


@dataclass(frozen=True)
class EnumValue:
    """A member of an enum whose class is not loaded in this process. It encodes to the same bytes again."""

    type: str
    """`module:QualifiedName` of the class."""
    name: str


def encode_state(tree: Any, *, owner: str = "state") -> bytes:
    """Encode `tree` as typed JSON. Raises `UnsupportedState`, with the value's path below `owner`, for other values."""
    return msgspec.json.encode(_encode(tree, owner, 0))


def decode_state(data: bytes | msgspec.Raw) -> Any:
    """Decode a tree that `encode_state` wrote. Raises `DamagedFile` for anything else."""
    try:
        return _decode(msgspec.json.decode(data), 0)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise DamagedFile(f"The state is not typed JSON: {error}") from None


def canonical_json(data: bytes | msgspec.Raw) -> bytes:
    """Return typed JSON with sorted keys: the same for equal trees, whatever the order of their dictionaries."""
    try:
        return msgspec.json.encode(_sort_pairs(msgspec.json.decode(data)), order="sorted")
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise DamagedFile(f"The state is not typed JSON: {error}") from None


def _encode(value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if value in _SMALL_INT else {"$int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": _float_name(value)}
    if kind is str:
        return _encode_text(value)
    if depth > MAX_DEPTH:
        raise UnsupportedState(f"{path} is nested more than {MAX_DEPTH} deep, or contains itself. Flatten it.")
    if kind is dict:
        return _encode_dict(value, path, depth)
    if kind is list:
        return _encode_items(value, path, depth)
    if kind is tuple:
        return {"$tuple": _encode_items(value, path, depth)}
    return _encode_other(value, path, depth)


def _encode_dict(value: dict[Any, Any], path: str, depth: int) -> Any:
    if all(type(key) is str and not key.startswith("$") and key.isprintable() for key in value):
        return {key: _encode(item, f"{path}[{key!r}]", depth + 1) for key, item in value.items()}
    return {"$dict": _encode_pairs(value, path, depth)}


def _encode_pairs(value: Mapping[Any, Any], path: str, depth: int) -> list[Any]:
    return [
        [_encode(key, f"key {key!r} of {path}", depth + 1), _encode(item, f"{path}[{key!r}]", depth + 1)]
        for key, item in value.items()
    ]


def _encode_items(value: Iterable[Any], path: str, depth: int) -> list[Any]:
    return [_encode(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]


def _encode_other(value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if kind is TensorRef:
        return {"$tensor": value.name}
    if kind is bytes or kind is bytearray:
        return {f"${kind.__name__}": _to_base64(value)}
    if kind is complex:
        return {"$complex": [_encode(value.real, path, depth), _encode(value.imag, path, depth)]}
    if kind is set or kind is frozenset:
        items = [_encode(item, f"{path}{{{item!r}}}", depth + 1) for item in value]
        return {f"${kind.__name__}": sorted(items, key=msgspec.json.encode)}
    if kind is OrderedDict:
        return {"$ordered_dict": _encode_pairs(value, path, depth)}
    if kind is Counter:
        return {"$counter": _encode_pairs(value, path, depth)}
    if kind is defaultdict:
        name = next((name for name, factory in _FACTORIES.items() if factory is value.default_factory), None)
        if name is None:
            raise UnsupportedState(
                f"{path} is a defaultdict of {value.default_factory!r}, which a checkpoint cannot hold. "
                "Return a plain dict from state_dict()."
            )
        return {"$default_dict": [name, _encode_pairs(value, path, depth)]}
    if kind is deque:
        return {"$deque": [_encode_items(value, path, depth), value.maxlen]}
    if isinstance(value, enum.Enum):
        return {"$enum": [f"{kind.__module__}:{kind.__qualname__}", value.name]}
    if kind is EnumValue:
        return {"$enum": [value.type, value.name]}
    if kind.__module__ == "numpy" and getattr(getattr(value, "dtype", None), "kind", "") in _NUMPY_KINDS:
        return _encode_numpy(value)
    raise UnsupportedState(
        f"{path} is a {kind.__module__}.{kind.__qualname__}, which a checkpoint cannot hold. "
        "Return plain numbers, strings, lists, dicts or tensors from state_dict()."
    )


def _encode_text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"$text": _to_base64(value.encode("utf-8", "surrogatepass"))}
    return value


def _encode_numpy(value: Any) -> dict[str, Any]:
    little = value.astype(value.dtype.newbyteorder("<"), copy=False)
    kind = "$numpy_scalar" if not hasattr(type(value), "resize") or type(value).__name__ != "ndarray" else "$numpy"
    return {kind: [little.dtype.str, list(value.shape), _to_base64(little.tobytes())]}


def _float_name(value: float) -> str:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _to_base64(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode()


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _decode(plain: Any, depth: int) -> Any:
    kind = type(plain)
    if kind is list or kind is dict:
        if depth > _MAX_JSON_DEPTH:
            raise DamagedFile(f"The state is nested more than {MAX_DEPTH} deep.")
        if kind is list:
            return [_decode(item, depth + 1) for item in plain]
        if len(plain) == 1:
            ((tag, payload),) = plain.items()
            if tag.startswith("$"):
                return _decode_tagged(tag, payload, depth + 1)
        return {key: _decode(item, depth + 1) for key, item in plain.items()}
    return plain


def _decode_tagged(tag: str, payload: Any, depth: int) -> Any:
    decoder = _DECODERS.get(tag)
    if decoder is None:
        raise DamagedFile(f"The state has the tag '{tag}', which this version of Relight does not know.")
    try:
        return decoder(payload, depth)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, binascii.Error) as error:
        raise DamagedFile(f"The state has a '{tag}' with the wrong content: {error}") from None


def _items(payload: Any, depth: int) -> list[Any]:
    if type(payload) is not list:
        raise TypeError(f"a list was expected, not {type(payload).__name__}")
    return [_decode(item, depth) for item in payload]


def _pairs(payload: Any, depth: int) -> list[tuple[Any, Any]]:
    return [(key, value) for key, value in _items(payload, depth)]


def _text(payload: Any) -> str:
    if type(payload) is not str:
        raise TypeError(f"a string was expected, not {type(payload).__name__}")
    return payload


def _decode_complex(real: float, imag: float) -> complex:
    return complex(real, imag)


def _decode_enum(payload: Any, depth: int) -> Any:
    type_name, name = (_text(part) for part in payload)
    module, _, qualified = type_name.partition(":")
    # Only classes that this process has loaded already: a file must not decide what gets imported.
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = vars(found).get(part) if found is not None and hasattr(found, "__dict__") else None
    if isinstance(found, type) and issubclass(found, enum.Enum) and name in found.__members__:
        return found[name]
    return EnumValue(type_name, name)


def _decode_numpy(payload: Any, depth: int) -> Any:
    import numpy as np

    dtype, shape, data = payload
    # np.dtype() evaluates whole expressions, so it gets only what the encoder writes.
    if not _NUMPY_TYPE.match(_text(dtype)) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"type {dtype!r}, shape {shape!r}")
    return np.frombuffer(_from_base64(_text(data)), np.dtype(dtype)).reshape(shape).copy()


def _decode_default_dict(payload: Any, depth: int) -> defaultdict[Any, Any]:
    name, pairs = payload
    return defaultdict(_FACTORIES[name], _pairs(pairs, depth))


def _decode_deque(payload: Any, depth: int) -> deque[Any]:
    items, length = payload
    return deque(_items(items, depth), length)


_DECODERS: dict[str, Callable[[Any, int], Any]] = {
    "$tuple": lambda payload, depth: tuple(_items(payload, depth)),
    "$set": lambda payload, depth: set(_items(payload, depth)),
    "$frozenset": lambda payload, depth: frozenset(_items(payload, depth)),
    "$dict": lambda payload, depth: dict(_pairs(payload, depth)),
    "$ordered_dict": lambda payload, depth: OrderedDict(_pairs(payload, depth)),
    "$counter": lambda payload, depth: Counter(dict(_pairs(payload, depth))),
    "$default_dict": _decode_default_dict,
    "$deque": _decode_deque,
    "$int": lambda payload, depth: int(_text(payload), 16),
    "$float": lambda payload, depth: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[payload],
    "$complex": lambda payload, depth: _decode_complex(*_items(payload, depth)),
    "$bytes": lambda payload, depth: _from_base64(_text(payload)),
    "$bytearray": lambda payload, depth: bytearray(_from_base64(_text(payload))),
    "$text": lambda payload, depth: _from_base64(_text(payload)).decode("utf-8", "surrogatepass"),
    "$tensor": lambda payload, depth: TensorRef(_text(payload)),
    "$enum": _decode_enum,
    "$numpy": _decode_numpy,
    "$numpy_scalar": lambda payload, depth: _decode_numpy(payload, depth)[()],
}

_UNORDERED_PAIRS = ("$dict", "$counter")


def _sort_pairs(plain: Any) -> Any:
    if type(plain) is list:
        return [_sort_pairs(item) for item in plain]
    if type(plain) is not dict:
        return plain
    walked = {key: _sort_pairs(item) for key, item in plain.items()}
    for tag in _UNORDERED_PAIRS:
        if tag in walked and type(walked[tag]) is list:
            walked[tag] = sorted(walked[tag], key=lambda pair: msgspec.json.encode(pair, order="sorted"))
    if "$default_dict" in walked and type(walked["$default_dict"]) is list and len(walked["$default_dict"]) == 2:
        name, pairs = walked["$default_dict"]
        if type(pairs) is list:
            walked["$default_dict"] = [name, sorted(pairs, key=lambda p: msgspec.json.encode(p, order="sorted"))]
    return walked
