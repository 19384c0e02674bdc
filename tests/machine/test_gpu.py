"""The GPU reader against the real Python binding, on a fake library."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from fake_nvml.plugin import FakeNvml
from relight.machine.gpu import GpuCard, GpuReader

_READ = """
import dataclasses, itertools, json, sys
from relight.machine.gpu import GpuReader
reader = GpuReader(clock=itertools.count(step=60).__next__)
for line in sys.stdin:
    report = reader.read()
    cards = [dataclasses.asdict(card) for card in report.cards]
    print(json.dumps({**dataclasses.asdict(report), "cards": cards}), flush=True)
"""


class Child:
    """A process that reads the GPUs once for each `read`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _READ], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def read(self) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture
def child(fake_nvml: FakeNvml) -> Any:
    child = Child(fake_nvml.environment)
    yield child
    child.process.kill()
    child.process.communicate()


def test_a_healthy_card_shows_every_figure(fake_nvml: FakeNvml, child: Child) -> None:
    fake_nvml.write(fake_nvml.card(procs="4242:81000000000,4243:N/A", reasons=0x4))
    report = child.read()
    assert (report["driver"], report["cuda"], report["absent_reason"]) == ("580.65.06", "13.0", None)
    assert report["cards"] == [
        {
            "index": 0,
            "uuid": "GPU-00000000",
            "name": "NVIDIA H200",
            "memory_used_bytes": 81_604_378_624,
            "memory_total_bytes": 150_754_820_096,
            "utilization_percent": 97.0,
            "power_w": 650.5,
            "power_limit_w": 700.0,
            "temperature_c": 61.0,
            "sm_clock_mhz": 1410.0,
            "max_sm_clock_mhz": 1980.0,
            "throttle_reasons": ["at its power limit"],
            "throttle_alarm": False,
            "processes": [{"pid": 4242, "memory_bytes": 81_000_000_000}, {"pid": 4243, "memory_bytes": None}],
            "processes_known": True,
            "error": None,
        }
    ]


def test_two_cards_keep_their_order_and_names(fake_nvml: FakeNvml, child: Child) -> None:
    fake_nvml.write(fake_nvml.card(0), fake_nvml.card(1, name="NVIDIA L4"))
    assert [(card["index"], card["name"]) for card in child.read()["cards"]] == [(0, "NVIDIA H200"), (1, "NVIDIA L4")]


def test_no_card_is_one_sentence(fake_nvml: FakeNvml, child: Child) -> None:
    report = child.read()
    assert report["cards"] == []
    assert report["absent_reason"] == "The NVIDIA driver is loaded but finds no GPU: GPU figures are not shown."


@pytest.mark.parametrize(
    ("code", "words"), [(9, "not loaded"), (18, "reboot"), (4, "no access"), (12, "No NVIDIA driver"), (999, "999")]
)
def test_a_driver_that_does_not_start_says_why_in_one_sentence(
    fake_nvml: FakeNvml, child: Child, code: int, words: str
) -> None:
    fake_nvml.write(fake_nvml.card(), init=code)
    report = child.read()
    assert report["cards"] == []
    assert words in report["absent_reason"]
    assert report["absent_reason"].count(". ") == 0


def test_a_driver_that_comes_back_is_found(fake_nvml: FakeNvml, child: Child) -> None:
    fake_nvml.write(fake_nvml.card(), init=9)
    assert child.read()["absent_reason"]
    fake_nvml.write(fake_nvml.card())
    assert len(child.read()["cards"]) == 1


def test_a_lost_card_keeps_its_name_and_hides_no_other(fake_nvml: FakeNvml, child: Child) -> None:
    fake_nvml.write(fake_nvml.card(0), fake_nvml.card(1))
    child.read()
    fake_nvml.write(fake_nvml.card(0), fake_nvml.card(1, err={"nvmlDeviceGetMemoryInfo": 15}))
    healthy, lost = child.read()["cards"]
    assert healthy["error"] is None
    assert healthy["utilization_percent"] == 97.0
    assert "lost this card" in lost["error"]
    assert (lost["name"], lost["uuid"]) == ("NVIDIA H200", "GPU-00000001")
    assert lost["utilization_percent"] is None


def test_a_missing_sensor_is_none_and_hides_no_other(fake_nvml: FakeNvml, child: Child) -> None:
    bare = {"power_mw": None, "temp": None, "util": None, "reasons": None, "max_sm_clock": None}
    fake_nvml.write(fake_nvml.card(**bare, err={"nvmlDeviceGetClockInfo": 999}))
    (card,) = child.read()["cards"]
    assert card["error"] is None
    assert card["memory_used_bytes"] == 81_604_378_624
    for name in (
        "power_w",
        "temperature_c",
        "utilization_percent",
        "throttle_alarm",
        "max_sm_clock_mhz",
        "sm_clock_mhz",
    ):
        assert card[name] is None, name


@pytest.mark.parametrize(
    ("bits", "alarm"), [(0x1, False), (0x4, False), (0x8, True), (0x20, True), (0x40, True), (0x80, True), (0x24, True)]
)
def test_only_heat_brake_and_hardware_slowdown_are_alarms(
    fake_nvml: FakeNvml, child: Child, bits: int, alarm: bool
) -> None:
    fake_nvml.write(fake_nvml.card(reasons=bits))
    (card,) = child.read()["cards"]
    assert card["throttle_alarm"] is alarm
    assert len(card["throttle_reasons"]) == bits.bit_count()


def test_an_older_driver_is_asked_by_the_older_name(fake_nvml: FakeNvml, child: Child) -> None:
    fake_nvml.write(fake_nvml.card(reasons=0x40, err={"nvmlDeviceGetCurrentClocksEventReasons": 13}))
    (card,) = child.read()["cards"]
    assert card["throttle_alarm"] is True


def test_an_unreadable_process_list_is_not_an_empty_one(fake_nvml: FakeNvml, child: Child) -> None:
    fake_nvml.write(fake_nvml.card(err={"nvmlDeviceGetComputeRunningProcesses_v3": 4}))
    (card,) = child.read()["cards"]
    assert card["processes_known"] is False
    fake_nvml.write(fake_nvml.card())
    assert child.read()["cards"][0]["processes_known"] is True


def test_the_library_is_tried_again_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    now, tries = [0.0], [0]

    def fail() -> None:
        tries[0] += 1
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    reader = GpuReader(clock=lambda: now[0])
    for moment in (0.0, 1.0, 29.0, 30.0):
        now[0] = moment
        report = reader.read()
        assert report.absent_reason == "No NVIDIA driver on this machine: GPU figures are not shown."
    assert tries[0] == 2


def test_a_card_without_figures_has_no_alarm() -> None:
    assert GpuCard(index=0).throttle_alarm is None
