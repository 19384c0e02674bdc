"""Makes a checkpoint of a module in a store without any training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.snapshot_header import SnapshotHeader
from relight.checkpoints.store import CheckpointStore
from relight.training.state.snapshot import copy_tensors, describe_tensors
from relight.training.state.training_state import TrainingState


def commit(folder: Path, model: nn.Module, *, step: int = 3, optimizer: bool = True) -> CheckpointInfo:
    """Commit the state of the untrained `model` to the store in `folder`."""
    state = TrainingState()
    state.track("model", model)
    if optimizer:
        state.track("optimizer", torch.optim.SGD(model.parameters(), lr=0.1))
    state.record_edge({"step": step})
    captured = state.capture(at_edge=True)
    assert captured is not None
    specs = describe_tensors(captured.tensors)
    memory = [memoryview(bytearray(spec.nbytes)) for spec in specs]
    copy_tensors(captured.tensors, memory)
    header = SnapshotHeader(step=step, epoch=0, reason="periodic", time_s=1.0, tensors=specs, state=captured.tree)
    return CheckpointStore(folder).commit(header, memory)
