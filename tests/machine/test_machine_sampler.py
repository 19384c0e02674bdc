"""The sampler in a process of its own, with cards that hang, vanish and come back."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_nvml.plugin import FakeNvml
from relight.machine.gpu import GpuCard, GpuProcess, GpuReport
from relight.machine.machine_sampler import GPU_COLUMNS, HOST_COLUMNS, gpu_values, process_memory_bytes

# Samples itself ten times a second; figures older than 0.5 s are stale. Ends on a line of input.
_SAMPLE = """
import json, os, sys, time
from pathlib import Path
from relight.machine.gpu_watch import GpuWatch
from relight.machine.machine_sampler import MachineSampler
def show(at, values):
    report = gpus.latest()
    errors = [card.error for card in report.cards]
    print(json.dumps({"values": values, "errors": errors, "absent": report.absent_reason}), flush=True)
gpus = GpuWatch(interval_s=0.1, stale_s=0.5)
sampler = MachineSampler(Path("."), on_sample=show, interval_s=0.1, gpu_wait_s=1.0, gpus=gpus)
sampler.set_pids(os.getpid())
sampler.start()
sys.stdin.readline()
sampler.stop()
"""

Sample = dict[str, Any]


class Child:
    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SAMPLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def until(self, true: Callable[[Sample], bool], seconds: float = 20.0) -> Sample:
        assert self.process.stdout
        deadline = time.monotonic() + seconds
        sample: Sample = {}
        while time.monotonic() < deadline:
            sample = json.loads(self.process.stdout.readline())
            if true(sample):
                return sample
        raise AssertionError(f"not in {seconds} s; the last sample: {sample}")


@pytest.fixture
def start(fake_nvml: FakeNvml) -> Iterator[Callable[[], Child]]:
    children: list[Child] = []

    def begin() -> Child:
        children.append(Child(fake_nvml.environment))
        return children[-1]

    yield begin
    for child in children:
        child.process.kill()
        child.process.communicate()


def _columns(*indexes: int) -> list[str]:
    return [*HOST_COLUMNS, *(f"gpu{index}_{name}" for index in indexes for name in GPU_COLUMNS)]


def test_without_a_card_only_the_hosts_columns_are_there(start: Callable[[], Child]) -> None:
    sample = start().until(lambda s: s["values"]["cpu_percent"] >= 0)
    assert list(sample["values"]) == _columns()
    assert sample["values"]["processes"] == 1
    assert sample["values"]["memory_bytes"] > 1_000_000
    assert "finds no GPU" in sample["absent"]


def test_two_cards_have_all_their_columns(fake_nvml: FakeNvml, start: Callable[[], Child]) -> None:
    fake_nvml.write(fake_nvml.card(0, reasons=0x40), fake_nvml.card(1, temp=None))
    values = start().until(lambda s: True)["values"]
    assert list(values) == _columns(0, 1)
    assert (values["gpu0_utilization_percent"], values["gpu0_throttle_alarm"]) == (97.0, 1.0)
    assert (values["gpu1_power_w"], values["gpu1_throttle_alarm"]) == (650.5, 0.0)
    assert math.isnan(values["gpu1_temperature_c"])


def test_a_card_that_hangs_turns_to_nan_while_everything_else_goes_on_and_comes_back(
    fake_nvml: FakeNvml, start: Callable[[], Child]
) -> None:
    fake_nvml.write(fake_nvml.card(0), fake_nvml.card(1))
    child = start()
    child.until(lambda s: s["values"]["gpu1_utilization_percent"] == 97.0)
    fake_nvml.write(fake_nvml.card(0, util=5), fake_nvml.card(1, hang={"nvmlDeviceGetMemoryInfo": 600}))
    sample = child.until(lambda s: math.isnan(s["values"]["gpu1_utilization_percent"]))
    assert list(sample["values"]) == _columns(0, 1)
    assert all(math.isnan(sample["values"][f"gpu1_{name}"]) for name in GPU_COLUMNS)
    assert "stopped answering" in sample["errors"][1]
    assert sample["errors"][0] is None
    assert sample["values"]["gpu0_utilization_percent"] == 5.0
    for _ in range(5):
        assert child.until(lambda s: True)["values"]["cpu_percent"] >= 0
    fake_nvml.write(fake_nvml.card(0), fake_nvml.card(1, util=42))
    assert child.until(lambda s: s["values"]["gpu1_utilization_percent"] == 42.0)["errors"] == [None, None]


def test_a_hung_card_keeps_no_process_from_ending(fake_nvml: FakeNvml, start: Callable[[], Child]) -> None:
    fake_nvml.write(fake_nvml.card(0))
    child = start()
    child.until(lambda s: s["errors"] == [None])
    fake_nvml.write(fake_nvml.card(0, hang={"nvmlDeviceGetUtilizationRates": 600}))
    child.until(lambda s: s["errors"] != [None])
    child.process.communicate("\n", timeout=10)
    assert child.process.returncode == 0


def test_a_driver_that_never_starts_delays_the_first_sample_only(
    fake_nvml: FakeNvml, start: Callable[[], Child]
) -> None:
    fake_nvml.write(fake_nvml.card(0), hang={"nvmlInitWithFlags": 600})
    child = start()
    sample = child.until(lambda s: s["values"]["cpu_percent"] >= 0)
    assert list(sample["values"]) == _columns()
    assert "has not answered for" in sample["absent"]


def test_a_lost_card_turns_to_nan(fake_nvml: FakeNvml, start: Callable[[], Child]) -> None:
    fake_nvml.write(fake_nvml.card(0))
    child = start()
    child.until(lambda s: s["values"]["gpu0_power_w"] == 650.5)
    fake_nvml.write(fake_nvml.card(0, err={"nvmlDeviceGetHandleByIndex_v2": 15}))
    sample = child.until(lambda s: math.isnan(s["values"]["gpu0_power_w"]))
    assert "lost this card" in sample["errors"][0]


def test_process_memory_counts_our_own_processes(fake_nvml: FakeNvml, start: Callable[[], Child]) -> None:
    fake_nvml.write(fake_nvml.card(0))
    child = start()
    fake_nvml.write(fake_nvml.card(0, procs=f"{child.process.pid}:5000,1:7000"))
    child.until(lambda s: s["values"]["gpu0_process_memory_bytes"] == 5000.0)


@pytest.mark.parametrize(
    ("processes", "known", "host_pids", "expected"),
    [
        ((GpuProcess(1, 10), GpuProcess(2, 20), GpuProcess(9, 40)), True, True, 30),
        ((GpuProcess(9, 40),), True, True, 0),
        ((GpuProcess(9, 40),), True, False, None),
        ((GpuProcess(1, None),), True, True, None),
        ((), False, True, None),
    ],
)
def test_process_memory_is_unknown_rather_than_wrong(
    processes: tuple[GpuProcess, ...], known: bool, host_pids: bool, expected: int | None
) -> None:
    card = GpuCard(index=0, processes=processes, processes_known=known)
    assert process_memory_bytes(card, frozenset({1, 2}), host_pids=host_pids) == expected


def test_columns_follow_a_card_by_uuid_when_the_driver_counts_anew() -> None:
    slots = (GpuCard(index=0, uuid="a"), GpuCard(index=1, uuid="b"))
    report = GpuReport(cards=(GpuCard(index=0, uuid="b", power_w=7.0),), driver=None, cuda=None, absent_reason=None)
    values = gpu_values(report, slots, frozenset(), host_pids=True)
    assert values["gpu1_power_w"] == 7.0
    assert math.isnan(values["gpu0_power_w"])


def test_the_sampler_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    code = "import relight.machine.machine_sampler, relight.machine.report, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "streamlit"} & set(loaded)
