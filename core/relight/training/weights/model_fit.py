"""Checks, before a run starts, that a checkpoint fits the model that a config builds: names, types and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from relight.checkpoints.snapshot_header import TensorRef
from relight.checkpoints.store import CheckpointStore
from relight.errors import CheckpointNotFound
from relight.training.state.module_names import ModuleNames
from relight.training.state.state_errors import list_differences
from relight.training.state.state_tree import describe_form
from relight.training.state.stored_tensors import StoredTensors
from relight.training.state.training_state import MODEL
from relight.training.task import Task


def find_misfit(task: Task, folder: Path, sequence: int) -> str | None:
    """Return how the model differs from checkpoint `sequence`: "16 with another shape or type: …"; "" if it fits.

    The model is built without data (on PyTorch's meta device), so even a large one costs little. Return None if the
    model's code cannot do that; then only the start of the training shows whether it fits.
    """
    saved = _read_forms(folder, sequence)
    if saved is None:
        return None
    try:
        with torch.device("meta"):
            model = task.build_model()
        names = ModuleNames(model)
        state = model.state_dict()
    except Exception:
        return None
    live = {names.canonical(name): describe_form(value) for name, value in state.items()}
    # A lazy module takes any shape.
    lazy = {names.canonical(name) for name, value in state.items() if is_lazy(value)}
    problems = [
        f"{key} ({form} in the checkpoint, {live[key]} now)"
        for key, form in saved.items()
        if form is not None and key in live and form != live[key] and key not in lazy
    ]
    forms = {**live, **{key: form for key, form in saved.items() if form is not None}}
    return list_differences(saved=saved, live=live, problems=problems, forms=forms)


def _read_forms(folder: Path, sequence: int) -> dict[str, str | None] | None:
    """Return the type and shape of everything in the model's state dict by name; None for other values."""
    store = CheckpointStore(folder)
    try:
        info = store.find_sequence(sequence)
    except CheckpointNotFound:
        return None
    with store.open(info) as reader:
        tree: Mapping[str, Any] | None = reader.state.get("parts", {}).get(MODEL)
        if tree is None:
            return None
        form = StoredTensors(reader).form
        tensors: Mapping[str, Any] = tree.get("tensors", {})
        return {key: form(value.name) if isinstance(value, TensorRef) else None for key, value in tensors.items()}
