"""Which parts of a training state hold the weights that an export is made of."""

from __future__ import annotations

from typing import Any


def find_modules(state: Any) -> dict[str, dict[str, Any]] | None:
    """The modules to export, each by the prefix that its tensors' names get.

    That is what is tracked as "model", else the only module: both without a prefix. Of several other ones, each by its
    name ("netG."). None where the state is not of the shape that `relight.training` makes.
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
