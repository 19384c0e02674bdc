"""The device that the tests in this folder use: the CUDA card, or the CPU in a rehearsal of `make gpu`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from integration import soak

REHEARSAL = os.environ.get("RELIGHT_GPU_REHEARSAL") == "1"
"""`scripts/run_gpu.py --rehearse` sets it: the same tests, on the CPU, with a fake card for the panel."""


@pytest.fixture
def device() -> torch.device:
    if REHEARSAL:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return torch.device("cuda", 0)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """A runs folder. Nothing that trains in it outlives the test."""
    folder = tmp_path / "runs"
    folder.mkdir()
    yield folder
    soak.end_everything(folder)
