"""Relight checks by names and shapes whether a checkpoint fits the model of another config before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from relight import Task, TaskConfig, option
from relight.checkpoints.store import CheckpointStore
from relight.runs.records import TaskReference
from relight.tasks.inspection import inspect_task
from relight.training.state.state_tree import DTYPE_NAMES
from relight.training.state.training_state import TrainingState
from relight.training.weights.model_fit import find_misfit


class Tied(Task):
    """A task whose model has tied weights, both kinds of buffers, and a layer that an option adds."""

    class Config(TaskConfig):
        hidden: int = option(4, "Width.")
        deeper: bool = option(False, "One more layer.")
        on_meta: bool = option(True, "Whether the model can be built without data.")

    def build_model(self) -> nn.Module:
        hidden = self.config.hidden
        model = nn.Sequential(nn.Linear(2, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 2))
        model.register_buffer("scratch", torch.zeros(hidden), persistent=False)
        model.add_module("again", model[0])
        if self.config.deeper:
            model.add_module("extra", nn.Linear(3, 1))
        if not self.config.on_meta:
            torch.ones(()).item()
        return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with one checkpoint of the task's model."""
    from relight.checkpoints.snapshot_header import SnapshotHeader, TensorSpec

    state = TrainingState()
    state.track("model", Tied(Tied.Config()).build_model())
    state.record_edge({"step": 0, "evaluated_step": None, "best": {}})
    captured = state.capture(at_edge=True)
    assert captured is not None
    specs = [
        TensorSpec(name, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), tensor.nbytes)
        for name, tensor in captured.tensors.items()
    ]
    header = SnapshotHeader(step=3, epoch=0, reason="manual", time_s=1.0, tensors=specs, state=captured.tree)
    data = [
        memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()) for tensor in captured.tensors.values()
    ]
    CheckpointStore(tmp_path).commit(header, data)
    return tmp_path


def fit(folder: Path, **config: Any) -> str | None:
    return find_misfit(Tied(Tied.Config(**config)), folder, CheckpointStore(folder).list().checkpoints[0].sequence)


def test_the_same_model_fits(folder: Path) -> None:
    assert fit(folder) == ""
    assert fit(folder, lr=0.5, epochs=7) == ""


def test_another_shape_is_told_with_both(folder: Path) -> None:
    told = fit(folder, hidden=5)
    assert told is not None
    assert "0.weight (float32 [4, 2] in the checkpoint, float32 [5, 2] now)" in told
    assert "missing" not in told


def test_another_layer_is_told_with_its_shape(folder: Path) -> None:
    assert fit(folder, deeper=True) == (
        "2 missing in the checkpoint: extra.bias (float32 [1]), extra.weight (float32 [1, 3])"
    )


def test_what_cannot_be_told_is_left_to_the_start(folder: Path) -> None:
    assert fit(folder, hidden=5, on_meta=False) is None
    assert find_misfit(Tied(Tied.Config()), folder, 999) is None


@pytest.mark.processes
def test_a_process_of_its_own_tells_it_to_those_who_load_no_torch(folder: Path) -> None:
    (info,) = CheckpointStore(folder).list().checkpoints
    answer = inspect_task(
        TaskReference(kind="builtin", name="digits"), config={"width": 8}, fits=(folder, info.sequence)
    )
    assert answer.misfit is not None
    assert "0.weight (float32 [4, 2] in the checkpoint, float32 [8, 1, 3, 3] now)" in answer.misfit
