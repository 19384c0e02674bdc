"""Writes metric folders for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from relight.metrics.writer import MetricWriter

Row = tuple[int, Mapping[str, float]]


def log_rows(
    folder: Path, *, stream: str = "train", attempt: int = 1, rows: Iterable[Row], begin_s: float = 0.0
) -> None:
    """Log rows one after the other, a second apart from `begin_s` on."""
    writer = MetricWriter(folder, stream=stream, attempt=attempt)
    for number, (step, values) in enumerate(rows):
        writer.log(step, values, time_s=begin_s + number)
    writer.close()


def losses(steps: Iterable[int], *, offset: float = 0.0) -> list[Row]:
    """A loss for each step that says which step it belongs to."""
    return [(step, {"loss": step + offset}) for step in steps]
