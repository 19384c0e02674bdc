"""The device that the tests in this folder use: the CUDA card, or the CPU in a rehearsal of `make gpu`."""

from __future__ import annotations

import os

import pytest
import torch

REHEARSAL = os.environ.get("RELIGHT_GPU_REHEARSAL") == "1"
"""`scripts/run_gpu.py --rehearse` sets it: the same tests, on the CPU, with a fake card for the panel."""


@pytest.fixture
def device() -> torch.device:
    if REHEARSAL:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return torch.device("cuda", 0)
