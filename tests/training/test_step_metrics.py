"""Metrics are written step by step, without waiting for a device that lags behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from relight.metrics.series import read_series
from relight.metrics.writer import MetricWriter
from relight.training.step_metrics import StepMetrics


class DeviceTensor(torch.Tensor):
    """A tensor that claims to be on a CUDA device."""

    is_cuda = True


class Event:
    """A CUDA event on a device that has finished the first `reached` events. Counts the waits."""

    made: ClassVar[int] = 0
    reached: ClassVar[int] = 0
    waited: ClassVar[int] = 0

    def record(self) -> None:
        Event.made += 1
        self.number = Event.made

    def query(self) -> bool:
        return self.number <= Event.reached

    def synchronize(self) -> None:
        Event.waited += 1
        Event.reached = max(Event.reached, self.number)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> type[Event]:
    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", Event)

    def unpinned(*arguments: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return empty(*arguments, **options)

    monkeypatch.setattr(torch, "empty", unpinned)
    Event.made = Event.reached = Event.waited = 0
    return Event


def on_device(value: float, dtype: torch.dtype = torch.float32) -> Any:
    return torch.tensor(value, dtype=dtype).as_subclass(DeviceTensor)


def values(folder: Path, name: str) -> list[tuple[int, float]]:
    try:
        series = read_series(folder, name)
    except (FileNotFoundError, KeyError):
        return []
    return list(zip(series.steps.tolist(), series.values.tolist(), strict=True))


def test_on_the_cpu_a_step_is_in_the_file_when_log_returns(tmp_path: Path) -> None:
    metrics = StepMetrics(MetricWriter(tmp_path, stream="train", attempt=1))
    metrics.log(1, {"loss": torch.tensor(0.5), "lr": 0.1}, time_s=1.0)
    assert values(tmp_path, "train/loss") == [(1, 0.5)]
    assert metrics.latest == {"loss": 0.5, "lr": 0.1}


def test_a_device_that_lags_is_not_waited_for_and_loses_nothing(tmp_path: Path, device: type[Event]) -> None:
    metrics = StepMetrics(MetricWriter(tmp_path, stream="train", attempt=1))
    for step in range(1, 11):
        metrics.log(step, {"loss": on_device(step), "lr": step / 10, "n": torch.tensor(step)}, time_s=step)
    assert device.waited == 0
    assert values(tmp_path, "train/loss") == []
    device.reached = 4
    metrics.log(11, {"loss": on_device(11), "lr": 1.1, "n": torch.tensor(11)}, time_s=11)
    assert values(tmp_path, "train/loss") == [(step, step) for step in range(1, 5)]
    assert device.waited == 0
    metrics.flush()
    assert values(tmp_path, "train/loss") == [(step, step) for step in range(1, 12)]
    assert values(tmp_path, "train/lr")[-1] == (11, 1.1)
    assert values(tmp_path, "train/n")[2] == (3, 3)


def test_a_host_that_runs_far_ahead_is_held_back(tmp_path: Path, device: type[Event]) -> None:
    metrics = StepMetrics(MetricWriter(tmp_path, stream="train", attempt=1))
    for step in range(1, 201):
        metrics.log(step, {"loss": on_device(step)}, time_s=step)
    assert 0 < device.waited <= 200
    assert len(values(tmp_path, "train/loss")) >= 200 - 65


def test_values_of_mixed_types_keep_their_names(tmp_path: Path, device: type[Event]) -> None:
    metrics = StepMetrics(MetricWriter(tmp_path, stream="train", attempt=1))
    metrics.log(1, {"a": on_device(1.5, torch.bfloat16), "b": on_device(3, torch.int64), "c": 2}, time_s=1)
    metrics.flush()
    assert [values(tmp_path, f"train/{name}")[0][1] for name in "abc"] == [1.5, 3.0, 2.0]


@pytest.mark.parametrize("value", [torch.ones(3), on_device(1.0).expand(2), on_device(1.0) * 1j, "text", None, 10**400])
def test_what_is_not_one_number_is_nan_and_costs_nothing_else(tmp_path: Path, value: Any, device: type[Event]) -> None:
    metrics = StepMetrics(MetricWriter(tmp_path, stream="train", attempt=1))
    for step, loss in ((1, torch.tensor(1.0)), (2, on_device(2.0)), (3, 3.0)):
        metrics.log(step, {"top5": value, "loss": loss}, time_s=1.0)
    metrics.flush()
    assert values(tmp_path, "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert [math.isnan(found) for _, found in values(tmp_path, "train/top5")] == [True] * 3


def test_odd_names_are_logged_under_others_at_each_step(tmp_path: Path) -> None:
    metrics = StepMetrics(MetricWriter(tmp_path, stream="train", attempt=1))
    odd: Any = {"\ud800": 1.0, 5: 2.0, "": 3.0, "x" * 10_000: 4.0}
    for step in range(1, 4):
        metrics.log(step, odd, time_s=1.0)
        metrics.log(step, {"loss": 0.5}, time_s=1.0)
    for name, value in (("�", 1.0), ("5", 2.0), ("unnamed", 3.0), ("loss", 0.5)):
        assert values(tmp_path, f"train/{name}") == [(step, value) for step in range(1, 4)]
    assert len(list(tmp_path.iterdir())) == 2
