"""Fits foreign weights to a model: decides which tensor goes where, or raises one error that lists all differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from relight.training.state.module_names import ModuleNames
from relight.training.weights.weight_errors import WeightsRefused
from relight.wording import name_some

_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}


@dataclass(frozen=True)
class WeightFit:
    """How the weights fit. `prefix` was removed from the file's names, `added` was put before them."""

    prefix: str = ""
    added: str = ""
    converted: tuple[str, ...] = ()
    """Type conversions: "F16 to F32 (12 tensors)"."""
    outside: tuple[str, ...] = ()
    """Tensors of the file that are not below `prefix`."""
    tied: tuple[str, ...] = ()
    """Names that the file lacks because they are tied to a tensor that it has."""


def strip_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Map each name to its name in the bare model, without the prefixes of DDP, compile and checkpointing."""
    listed = list(names)
    bare = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in listed}
    while bare and all(name.startswith("module.") and len(name) > 7 for name in bare.values()):
        bare = {name: stripped[7:] for name, stripped in bare.items()}
    twice = [name for name, count in Counter(bare.values()).items() if count > 1]
    if twice:
        raise WeightsRefused(f"Without wrapper prefixes, two tensors of the file are named '{twice[0]}'.")
    return bare


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], *, file: str, task: str) -> WeightFit:
    """Copy `tensors` into `model`. Every tensor of the model must be present with its shape, and nothing else.

    Wrapper prefixes, and one common prefix of all names (a Lightning module's "model."), make no difference. Raise
    `WeightsRefused` with lists of what is missing, extra, or of another shape; the model is then unchanged.
    """
    names = ModuleNames(model)
    state = model.state_dict()
    by_key = {names.canonical(key): key for key, value in state.items() if isinstance(value, Tensor)}
    live = {key: state[name] for key, name in by_key.items()}
    bare = {stripped: tensors[name] for name, stripped in strip_wrappers(tensors).items()}
    ties = _list_ties(model, names)
    prefix, added = _find_prefix(bare, live, ties, file=file)
    inside = {added + key.removeprefix(prefix): value for key, value in bare.items() if key.startswith(prefix)}
    outside = tuple(sorted(key for key in bare if not key.startswith(prefix)))
    tied = _fill_ties(inside, ties)
    _check(inside, live, file=file, task=task)
    _check_ties(inside, ties, file=file)
    converted = Counter(
        f"{_name(value.dtype)} to {_name(live[key].dtype)}"
        for key, value in inside.items()
        if value.dtype != live[key].dtype
    )
    state.update({by_key[key]: value for key, value in inside.items()})
    model.load_state_dict(state)
    return WeightFit(
        prefix=prefix,
        added=added,
        converted=tuple(f"{what} ({count} tensor{'s' if count > 1 else ''})" for what, count in converted.items()),
        outside=outside,
        tied=tied,
    )


def _find_prefix(
    bare: Mapping[str, Tensor], live: Mapping[str, Tensor], ties: Sequence[Sequence[str]], *, file: str
) -> tuple[str, str]:
    """Return the prefix to remove from the file's names, and the one to add, to get the model's names."""
    counts = Counter(
        name[: len(name) - len(suffix)] for name in bare for suffix in _list_suffixes(name) if suffix in live
    )
    whole = [prefix for prefix in counts if not _list_missing(bare, live, ties, prefix)]
    if "" in whole:
        return "", ""
    if len(whole) == 1:
        return whole[0], ""
    if whole:
        raise WeightsRefused(
            f"{file} has {len(whole)} sets of weights that fit, below {name_some(sorted(whole))}. "
            "Choose one with --part."
        )
    first = next(iter(live), "")
    places = [place + 1 for place, letter in enumerate(first) if letter == "."]
    for place in places:
        above = first[:place]
        if all(key.startswith(above) for key in live) and {above + key for key in bare} == set(live):
            return "", above
    best = max(counts, key=lambda prefix: (counts[prefix], prefix == "", prefix), default="")
    return best, ""


def _list_suffixes(name: str) -> list[str]:
    parts = name.split(".")[-32:]
    return [".".join(parts[place:]) for place in range(len(parts))]


def _list_missing(
    bare: Mapping[str, Tensor], live: Mapping[str, Tensor], ties: Sequence[Sequence[str]], prefix: str
) -> list[str]:
    missing = {key for key in live if prefix + key not in bare}
    for group in ties:
        if any(key not in missing for key in group):
            missing -= set(group)
    return sorted(missing)


def _check(inside: Mapping[str, Tensor], live: Mapping[str, Tensor], *, file: str, task: str) -> None:
    missing, extra = sorted(set(live) - set(inside)), sorted(set(inside) - set(live))
    shapes = [
        f"{key} ({list(value.shape)} in the file, {list(live[key].shape)} in the model)"
        for key, value in inside.items()
        if key in live and value.shape != live[key].shape
    ]
    types = [
        f"{key} ({_name(value.dtype)} in the file, {_name(live[key].dtype)} in the model)"
        for key, value in inside.items()
        if key in live and not _can_become(value.dtype, live[key].dtype)
    ]
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing in the file: {name_some(missing)}")
    if extra:
        parts.append(f"{len(extra)} only in the file: {name_some(extra)}")
    if shapes:
        parts.append(f"{len(shapes)} with another shape: {name_some(shapes)}")
    if types:
        parts.append(f"{len(types)} with another type: {name_some(types)}")
    if parts:
        raise WeightsRefused(
            f"{file} does not fit the model of {task}. {'; '.join(parts)}. Set the task's options with --set so that "
            "it builds the model that these weights came from."
        )


def _can_become(given: torch.dtype, wanted: torch.dtype) -> bool:
    """Tell whether a conversion is allowed: only between floating-point types."""
    return given == wanted or (given.is_floating_point and wanted.is_floating_point)


def _list_ties(model: nn.Module, names: ModuleNames) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for live, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(names.canonical(live))
    return [group for group in groups.values() if len(group) > 1]


def _fill_ties(inside: dict[str, Tensor], ties: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Add missing names of tied tensors: Hugging Face saves a tied tensor under only one of its names."""
    filled = []
    for group in ties:
        there = next((key for key in group if key in inside), None)
        for key in group:
            if there is not None and key not in inside:
                inside[key] = inside[there]
                filled.append(key)
    return tuple(filled)


def _check_ties(inside: Mapping[str, Tensor], ties: Sequence[Sequence[str]], *, file: str) -> None:
    for first, *others in ties:
        for other in others:
            one, two = inside[first], inside[other]
            if one is not two and (one.dtype != two.dtype or not torch.equal(one, two)):
                raise WeightsRefused(f"'{first}' and '{other}' are one tensor in the model, but two in {file}.")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
