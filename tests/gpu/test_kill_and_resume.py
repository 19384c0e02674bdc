"""A run on the card that is killed with SIGKILL and resumed from the command line ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpu.trainings import kill_and_compare

pytestmark = [pytest.mark.gpu, pytest.mark.processes]

REHEARSED = {"context": 16, "batch_size": 4, "validation_samples": 8, "threads": 1}
"""A training that a CPU does in seconds."""


def test_a_killed_stdlib_gpt_ends_with_the_digest_of_an_uninterrupted_twin(
    runs: Path, device: torch.device, record_property: Callable[[str, object], None]
) -> None:
    steps = 120 if device.type == "cpu" else 2000
    options = {"device": device.type, "max_steps": steps, "checkpoint_every_s": 0, "checkpoint_every_steps": 50}
    options |= REHEARSED if device.type == "cpu" else {}
    settings = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]

    figures = kill_and_compare(runs, "stdlib-gpt", *settings, steps=steps, find_victim=lambda alive: alive.pids.trainer)
    record_property("figures", figures)
