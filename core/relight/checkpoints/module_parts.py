"""Finds the parts of a training state that hold the weights to export."""

from __future__ import annotations

from typing import Any


def find_modules(state: Any) -> dict[str, dict[str, Any]] | None:
    """Return the modules to export, by the prefix that the names of their tensors get.

    That is the module tracked as "model", or the only module, without a prefix. Otherwise it is every module, with its
    own name as prefix ("netG."). Returns None if the state does not have the structure that `relight.training` makes.
    """
    parts = state.get("parts") if isinstance(state, dict) else None
    if not isinstance(parts, dict):
        return None
    modules = {
        name: part
        for name, part in parts.items()
        if isinstance(part, dict) and part.get("kind", "module") == "module" and isinstance(part.get("tensors"), dict)
    }
    if not modules:
        return None
    if "model" in modules:
        return {"": modules["model"]}
    if len(modules) == 1:
        return {"": next(iter(modules.values()))}
    return {f"{name}.": part for name, part in modules.items()}
