"""What is made range by range is what is made at once, in a fraction of the memory."""

from __future__ import annotations

import io
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from relight.metrics import csv as csv_module
from relight.metrics.csv import write_csv
from relight.metrics.table import read_table
from relight.metrics.windows import StepWindows
from relight.metrics.writer import MetricWriter

NAMES = ["train/loss", "validation/loss"]


def log(folder: Path, stream: str, steps: list[int], *, attempt: int) -> None:
    writer = MetricWriter(folder, stream=stream, attempt=attempt)
    for step in steps:
        writer.log(step, {"loss": step + attempt / 10}, time_s=float(step))
    writer.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three attempts, steps that repeat, come in any order and lie far apart, in two streams."""
    noise = random.Random(1)
    for attempt, (low, high) in enumerate([(1, 120), (80, 200), (150, 400)], start=1):
        steps = list(range(low, high))
        log(tmp_path, "train", steps, attempt=attempt)
        log(tmp_path, "validation", [*noise.sample(steps, 20), 10**12 + attempt], attempt=attempt)
    return tmp_path


@pytest.mark.parametrize("ghosts", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 50, 10_000])
def test_windows_together_are_the_whole_table(folder: Path, rows: int, ghosts: bool) -> None:
    whole = read_table(folder, NAMES, ghosts=ghosts)
    parts = [
        read_table(folder, NAMES, ghosts=ghosts, window=window) for window in StepWindows(folder, NAMES, rows=rows)
    ]
    assert (len(parts) > 1) is (rows < 10_000)
    for field in ("steps", "times", "attempts", "ghost", "values", "present"):
        joined = np.concatenate([getattr(part, field) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, field))


def test_no_window_holds_much_more_than_it_should(folder: Path) -> None:
    sizes = [
        len(read_table(folder, NAMES, ghosts=True, window=window)) for window in StepWindows(folder, NAMES, rows=100)
    ]
    assert len(sizes) >= 4
    assert max(sizes) < 250


def test_a_csv_of_many_rows_takes_the_memory_of_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    for step in range(100_000):
        writer.log(step, {"loss": 1.0, "lr": 0.1}, time_s=1.0)
    writer.close()
    monkeypatch.setattr(csv_module, "WINDOW_ROWS", 5_000)

    class Nowhere(io.StringIO):
        def write(self, text: str) -> int:
            return len(text)

    tracemalloc.start()
    assert write_csv(tmp_path, Nowhere()) == 100_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6_000_000, "the table alone would take 4 MB a column"
