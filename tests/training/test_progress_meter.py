"""The progress record holds the rate, work and phase of an attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.runs.progress import Phase, Progress, read_progress
from relight.training.progress_meter import ProgressMeter, Totals


def edge(meter: ProgressMeter, step: int, now: float, phase: Phase = "training") -> None:
    meter.write(step=step, epoch=0, batch=step, now=now, phase=phase)


def read(path: Path) -> Progress:
    progress = read_progress(path)
    assert progress is not None
    return progress


def test_the_rate_is_that_of_this_attempt_and_of_the_last_seconds(tmp_path: Path) -> None:
    path = tmp_path / "progress.bin"
    meter = ProgressMeter(path, Totals(1000, 1, 1000))
    meter.start(step=500, work_s=90.0, now=1000.0)
    for done in range(1, 101):  # ten steps per second
        edge(meter, 500 + done, 1000.0 + done / 10)
    assert read(path).steps_per_s == pytest.approx(10, rel=0.05)
    for done in range(1, 301):  # the same rate after a pause, which must not count
        edge(meter, 600 + done, 1040.0 + done / 10)
    assert read(path).steps_per_s == pytest.approx(10, rel=0.05)
    progress = read(path)
    assert (progress.first_step, progress.started_s) == (500, 1000.0)
    assert progress.work_s == pytest.approx(90.0 + 70.0)
    assert progress.eta_s == pytest.approx(100 / 10, rel=0.1)


def test_a_phase_changes_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "progress.bin"
    meter = ProgressMeter(path, Totals(10, 1, 10))
    meter.start(step=0, work_s=0.0, now=1.0)
    edge(meter, 3, 2.0)
    edge(meter, 3, 2.0, "validating")
    progress = read(path)
    assert (progress.phase, progress.step, progress.time_s) == ("validating", 3, 2.0)


def test_a_disk_that_takes_nothing_stops_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = ProgressMeter(tmp_path / "progress.bin", Totals(10, 1, 10))

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(meter._file, "put", refuse)
    edge(meter, 1, 1.0)
    edge(meter, 2, 2.0)
