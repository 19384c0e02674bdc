"""The Machine page: with GPUs, without a GPU, and with alarms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relight.machine.gpu import GpuCard, GpuReport
from relight.machine.host import HostSample
from relight.machine.report import GpuProcessRow, MachineReport
from relight_app.engine import Engine
from relight_app.parts.machine import build_machine
from tests.app.parts.shown import show

HOST = HostSample(
    machine_cpu_percent=42.0, cpu_count=8.0, load_1m=1.5, machine_memory_bytes=90, machine_memory_total_bytes=100,
    disk_free_bytes=10**11, disk_total_bytes=10**12, disk_read_bytes_s=None, disk_write_bytes_s=None,
    pids=frozenset(), cpu_percent=None, memory_bytes=None, read_bytes=None, write_bytes=None,
)  # fmt: skip
CARD = GpuCard(
    index=0, name="NVIDIA H200", memory_used_bytes=80 * 10**9, memory_total_bytes=150 * 10**9, utilization_percent=97.0,
    power_w=650.0, power_limit_w=700.0, temperature_c=61.0, sm_clock_mhz=1410.0, processes_known=True,
)  # fmt: skip


def _report(*cards: GpuCard, rows: tuple[GpuProcessRow, ...] = (), absent: str | None = None) -> MachineReport:
    return MachineReport(time=0.0, host=HOST, gpu=GpuReport(cards, "580", "13.0", absent), gpu_processes=rows)


def test_the_page_says_in_one_sentence_why_there_are_no_gpu_figures(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = _report(absent="No NVIDIA driver on this machine: GPU figures are not shown.")
    monkeypatch.setattr("relight_app.parts.machine.latest_machine_report", lambda: report)
    part = show(engine, "machine")
    assert [heading.text for heading in part.find_all("h1")] == ["Machine"]
    assert "No NVIDIA driver on this machine" in part.text
    assert "8 cores" in part.text


def test_a_card_shows_its_figures_and_its_processes() -> None:
    row = GpuProcessRow(0, 4121, 58 * 10**9, "python", "ada", "python -m relight.training <x>")
    shown = build_machine(_report(CARD, rows=(row,)))
    for words in ("NVIDIA H200", "97 %", "80 GB of 150 GB", "650 W of 700 W", "61 °C", "1410 MHz", "4121", "&lt;x&gt;"):
        assert words in shown


def test_a_hot_card_raises_an_alarm_and_a_power_cap_does_not() -> None:
    hot = "too hot: slowed down by the driver"
    calm = build_machine(_report(replace(CARD, throttle_reasons=("at its power limit",), throttle_alarm=False)))
    assert 'badge bad"' not in calm
    alarm = build_machine(_report(replace(CARD, throttle_reasons=(hot,), throttle_alarm=True)))
    assert f'<span class="badge bad">{hot}</span>' in alarm


def test_a_lost_card_keeps_its_name_and_a_silent_sensor_is_unknown() -> None:
    lost = GpuCard(index=1, name="NVIDIA H200", error="The driver has lost this card: reboot the machine.")
    shown = build_machine(_report(GpuCard(index=0), lost))
    assert "The driver has lost this card" in shown
    assert shown.count("unknown") >= 4


def test_before_the_first_reading_there_is_a_sentence() -> None:
    report = MachineReport(0.0, None, GpuReport((), None, None, "No card."), ())
    assert "Reading the machine…" in build_machine(report)
