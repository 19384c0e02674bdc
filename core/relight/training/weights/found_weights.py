"""Finds the weights in a file: a plain state_dict, or one entry of a foreign checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relight.training.state.state_tree import DTYPE_NAMES
from relight.training.weights.pickled_weights import Skipped
from relight.training.weights.weight_errors import WeightsRefused
from relight.training.weights.weight_source import WeightSource

_USUAL = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params",
    "parameters", "net_state_dict", "backbone", "generator", "teacher", "student",
)  # fmt: skip
"""Common names for a model's state_dict in a checkpoint; the first one that exists is used."""
_AVERAGES = ("ema", "average", "swa", "shadow")
_DEPTH = 3
_NAMES_SHOWN = 8
_SPARE_BYTES = 1 << 20
_EXPANSION = 8


@dataclass(frozen=True)
class FoundWeights:
    """The file's tensors by name, and what else was recognized in it."""

    kind: str
    """What the file is, for people: "Lightning checkpoint"."""
    part: str
    """The entry that held the weights, such as "model_state_dict"; "" for the whole file."""
    tensors: dict[str, Tensor]
    prefix: str = ""
    """The prefix that was removed from all names because `part` asked for it."""
    not_taken: tuple[str, ...] = ()
    """What was recognized and not imported, each in a few words."""


def find_weights(source: WeightSource, *, part: str | None = None) -> FoundWeights:
    """Find the weights in an opened file. `part` names an entry of its dictionary, or a prefix of the tensors' names.

    Raise `WeightsRefused` when there are none, when there are several sets, and for tensors no file can hold.
    """
    tree, name = source.tree, source.path.name
    if not isinstance(tree, dict):
        _refuse_objects(source)
        what = "one tensor without a name" if isinstance(tree, Tensor) else f"a {type(tree).__name__}"
        raise WeightsRefused(f"{name} holds {what}, not tensors by name. Save model.state_dict() instead.")
    candidates = dict(_find_candidates(tree))
    if not candidates:
        _refuse_objects(source)
        _refuse_arrays(tree, name)
    prefix = ""
    if part is None:
        chosen = _choose(candidates, name)
    elif part in candidates:
        chosen = part
    else:
        chosen, prefix = _choose_by_prefix(candidates, part, name)
    content = candidates[chosen]
    tensors = {key: value.detach() for key, value in content.items() if isinstance(value, Tensor)}
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if prefix:
        others += [key for key in tensors if not key.startswith(prefix)]
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    _check_tensors(tensors, source)
    left = [_describe_entry(key, value) for key, value in tree.items() if key != chosen.split("/", 1)[0]]
    if chosen:
        left += [f"{chosen}/{key}" for key in others[:_NAMES_SHOWN]]
    else:
        left = [_describe_entry(key, tree[key]) for key in others[:_NAMES_SHOWN]]
    if len(others) > _NAMES_SHOWN:
        left.append(f"{len(others) - _NAMES_SHOWN} more values")
    return FoundWeights(_name_kind(source, chosen), chosen, tensors, prefix, (*left, *source.notes))


def _find_candidates(tree: dict[Any, Any], *, path: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and contents of every dictionary with named tensors; the path of the whole tree is ""."""
    if depth == 0 and _has_tensors(tree):
        yield "", tree
    if depth == _DEPTH:
        return
    for key, value in tree.items():
        if not isinstance(key, str) or type(value) is Tensor or not isinstance(value, dict) or _is_optimizer(value):
            continue
        below = f"{path}/{key}" if path else key
        if _has_tensors(value):
            yield below, value
        yield from _find_candidates(value, path=below, depth=depth + 1)


def _has_tensors(value: dict[Any, Any]) -> bool:
    """Tell whether `value` looks like a state_dict: tensors under names."""
    return all(isinstance(key, str) for key in value) and any(isinstance(inner, Tensor) for inner in value.values())


def _refuse_objects(source: WeightSource) -> None:
    """Say why there are no weights in a file whose contents only code could make."""
    if not source.objects:
        return
    own = [name for name in source.objects if not name.startswith("torch.")] or list(source.objects)
    raise WeightsRefused(
        f"{source.path.name} holds a whole model or other objects ('{own[0]}') and no weights outside them. Loading "
        "these would run code, so nothing was loaded. Where it was made, save only the weights: "
        "torch.save(model.state_dict(), FILE)."
    )


def _refuse_arrays(tree: dict[Any, Any], file: str) -> None:
    """Say why there are no weights in a file with arrays or numbered tensors."""
    entries = [tree, *(value for value in tree.values() if isinstance(value, dict))]
    values = [value for entry in entries for value in entry.values()]
    if any(isinstance(value, Skipped) and value.name.startswith("numpy.") for value in values):
        raise WeightsRefused(
            f"{file} holds NumPy arrays, not tensors. Where it was made, convert them with torch.from_numpy() and save "
            "the result with torch.save()."
        )
    if any(isinstance(value, Tensor) and not isinstance(key, str) for entry in entries for key, value in entry.items()):
        raise WeightsRefused(
            f"{file} numbers its tensors instead of naming them. Save model.state_dict(), which has the names."
        )


def _is_optimizer(value: dict[Any, Any]) -> bool:
    return "param_groups" in value and "state" in value


def _choose(candidates: dict[str, dict[str, Any]], file: str) -> str:
    for usual in _USUAL:
        found = [path for path in candidates if path.split("/")[0] == usual]
        if usual in candidates:
            return usual
        if len(found) == 1:
            return found[0]
    sizes = {path: sum(isinstance(value, Tensor) for value in content.values()) for path, content in candidates.items()}
    if sizes.get("", 0) >= max((size for path, size in sizes.items() if path), default=1):
        return ""
    below = [path for path in candidates if path]
    plain = [path for path in below if not any(word in path.lower() for word in _AVERAGES)] or below
    if len(plain) == 1:
        return plain[0]
    if plain:
        raise WeightsRefused(f"{file} holds several sets of weights: {_list(plain)}. Choose one with --part.")
    raise WeightsRefused(f"{file} holds no weights: it contains no named tensor.")


def _choose_by_prefix(candidates: dict[str, dict[str, Any]], part: str, file: str) -> tuple[str, str]:
    prefix = part if part.endswith(".") else f"{part}."
    found = [path for path, content in candidates.items() if any(str(key).startswith(prefix) for key in content)]
    if not found:
        there = f"It has {_list([path for path in candidates if path])}." if any(candidates) else "It has no parts."
        raise WeightsRefused(f"{file} has no part '{part}', and no tensor whose name starts with it. {there}")
    return (found[0] if len(found) == 1 else _choose({path: candidates[path] for path in found}, file)), prefix


def _check_tensors(tensors: dict[str, Tensor], source: WeightSource) -> None:
    total = 0
    for key, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.dtype not in DTYPE_NAMES:
            kind = tensor.dtype if tensor.layout is torch.strided else tensor.layout
            raise WeightsRefused(f"'{key}' in {source.path.name} is {kind}, which cannot be imported.")
        if tensor.device.type == "meta":
            raise WeightsRefused(f"'{key}' in {source.path.name} is a meta tensor: it has a shape, but no data.")
        total += math.prod(tensor.shape) * tensor.element_size()
    # A tensor may repeat its data (expand), so a few bytes can claim to be terabytes.
    if total > _EXPANSION * source.bytes + _SPARE_BYTES:
        raise WeightsRefused(
            f"{source.path.name} has {source.bytes:,} bytes, but claims to hold {total:,} bytes of tensors."
        )


def _name_kind(source: WeightSource, part: str) -> str:
    if source.path.is_dir():
        return "Hugging Face folder"
    if source.format == "safetensors":
        return "safetensors file"
    if "pytorch-lightning_version" in source.tree:
        return "Lightning checkpoint"
    return "PyTorch checkpoint" if part else "PyTorch state_dict"


def _describe_entry(key: Any, value: Any) -> str:
    """Describe an entry of a checkpoint in a few words: "epoch 12", "optimizer (optimizer state)"."""
    name = str(key)[:80]
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex() and value.device.type == "cpu":
        value = value.item()
    if isinstance(value, bool | int | float | str):
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return f"{name} {text}" if len(text) <= 40 else name
    lower = name.lower()
    if isinstance(value, list | tuple) and value and all(isinstance(v, dict) and _is_optimizer(v) for v in value):
        return f"{name} (optimizer state)"
    if "optim" in lower or (isinstance(value, dict) and _is_optimizer(value)):
        return f"{name} (optimizer state)"
    if "sched" in lower:
        return f"{name} (learning-rate schedule)"
    if "scaler" in lower:
        return f"{name} (loss scale)"
    if any(word in lower for word in _AVERAGES):
        return f"{name} (averaged weights)"
    if "rng" in lower or "random" in lower:
        return f"{name} (random generators)"
    return name


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"
