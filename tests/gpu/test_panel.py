"""The GPU panel shows what nvidia-smi shows, while a process computes on the card."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_nvml.plugin import FakeNvml
from relight.machine.pid_namespace import pids_are_the_hosts

pytestmark = pytest.mark.gpu

MIB = 1 << 20
# How far apart two readings may be that were taken within a second, under a steady load.
TOLERANCES = {"total memory": 1, "used memory": 64, "utilization": 15, "temperature": 3}  # MiB, MiB, %, °C

CARD_FIELDS = "uuid,name,memory.total,memory.used,memory.reserved,utilization.gpu,temperature.gpu"

# The reader behind the panel: it answers each line of input with a report.
PANEL = """
import dataclasses, json, sys
from pathlib import Path
from relight.machine.report import MachineReader
reader = MachineReader(Path("."))
reader.start()
for _ in sys.stdin:
    print(json.dumps(dataclasses.asdict(reader.latest()), default=list), flush=True)
reader.close()
"""

# Holds a gibibyte of the card's memory, and computes until its input ends.
LOAD = """
import select, sys, torch
held = torch.zeros(1 << 28, device="cuda")
a = torch.randn(4096, 4096, device="cuda")
first = True
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    if first:
        print("computing", flush=True)
        first = False
"""

# Stands in for nvidia-smi in a rehearsal, with the figures of FakeNvml.card().
NVIDIA_SMI = """#!/bin/sh
case $1 in
--query-gpu=*) echo "GPU-00000000, NVIDIA H200, 143771, 77824, 0, 97, 61" ;;
--query-compute-apps=*) echo "4242, 77000" ;;
esac
"""


@dataclass(frozen=True)
class BusyMachine:
    """A machine that computes on its card. `load_pid` is the process that does, None for a fake card."""

    environment: dict[str, str]
    load_pid: int | None


@pytest.fixture
def machine(device: torch.device, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BusyMachine]:
    if device.type == "cpu":
        fake: FakeNvml = request.getfixturevalue("fake_nvml")
        fake.write(fake.card(procs=f"4242:{77000 * MIB}"))
        stand_in = tmp_path / "nvidia-smi"
        stand_in.write_text(NVIDIA_SMI)
        stand_in.chmod(0o755)
        yield BusyMachine(fake.environment | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}, load_pid=None)
        return
    with child(LOAD, dict(os.environ)) as load:
        assert load.stdout is not None
        assert load.stdout.readline() == "computing\n"
        yield BusyMachine(dict(os.environ), load_pid=load.pid)


def test_the_panel_agrees_with_nvidia_smi(machine: BusyMachine, record_property: Callable[[str, object], None]) -> None:
    if shutil.which("nvidia-smi", path=machine.environment["PATH"]) is None:
        pytest.skip("nvidia-smi is not on the PATH")
    with child(PANEL, machine.environment) as panel:
        assert panel.stdin is not None
        assert panel.stdout is not None
        deadline = time.monotonic() + 30
        while True:
            print("report", file=panel.stdin, flush=True)
            report = json.loads(panel.stdout.readline())
            figures, differences = compare_cards(report, machine)
            differences += compare_processes(report, machine)
            if not differences:
                break
            assert time.monotonic() < deadline, "\n".join(differences)
            time.sleep(0.5)
    record_property("figures", "; ".join(figures))


def compare_cards(report: dict[str, Any], machine: BusyMachine) -> tuple[list[str], list[str]]:
    """Return the figures of the panel and of nvidia-smi, in words, and those that are too far apart."""
    cards = {card["uuid"]: card for card in report["gpu"]["cards"]}
    rows = nvidia_smi(f"--query-gpu={CARD_FIELDS}", machine)
    if sorted(cards) != sorted(row[0] for row in rows):
        return [], [f"the panel has the cards {sorted(cards)}, nvidia-smi {rows}. {report['gpu']['absent_reason']}"]
    figures, differences = [], []
    for uuid, name, *numbers in rows:
        card = cards[uuid]
        if card["name"] != name:
            differences.append(f"name: {card['name']}, nvidia-smi {name}")
        total, used, reserved, utilization, temperature = map(number, numbers)
        pairs = {
            "used memory": (mib(card["memory_used_bytes"]), used),
            "total memory": (mib(card["memory_total_bytes"]), total),
            "utilization": (card["utilization_percent"], utilization),
            "temperature": (card["temperature_c"], temperature),
        }
        for what, (ours, theirs) in pairs.items():
            # NVML's first memory call, which the panel uses, counts what the driver reserves as used memory.
            more = (reserved or 0) if what == "used memory" else 0
            if (ours is None) != (theirs is None):
                differences.append(f"{what}: {ours}, nvidia-smi {theirs}")
            elif ours is not None and theirs is not None:
                tolerance = TOLERANCES[what]
                if not theirs - tolerance <= ours <= theirs + more + tolerance:
                    differences.append(f"{what}: {ours:.0f}, nvidia-smi {theirs:.0f}")
        words = ", ".join(f"{what} {show(ours)} / {show(theirs)}" for what, (ours, theirs) in pairs.items())
        figures.append(f"{name}: {words}, reserved {show(reserved)}")
    return figures, differences


def compare_processes(report: dict[str, Any], machine: BusyMachine) -> list[str]:
    """Return in which processes, or in how much of their memory, the panel and nvidia-smi differ."""
    ours = {row["pid"]: mib(row["memory_bytes"]) for row in report["gpu_processes"]}
    theirs = {int(pid): number(used) for pid, used in nvidia_smi("--query-compute-apps=pid,used_memory", machine)}
    if sorted(ours) != sorted(theirs):
        return [f"processes: {ours}, nvidia-smi {theirs}"]
    if machine.load_pid is not None and pids_are_the_hosts() and machine.load_pid not in ours:
        return [f"processes: {ours}, without {machine.load_pid}, which computes on the card"]
    return [
        f"memory of process {pid}: {show(used)}, nvidia-smi {show(theirs[pid])}"
        for pid, used in ours.items()
        if (used is None) != (theirs[pid] is None)
        or (used is not None and abs(used - (theirs[pid] or 0)) > TOLERANCES["used memory"])
    ]


def nvidia_smi(query: str, machine: BusyMachine) -> list[list[str]]:
    done = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader,nounits"],
        env=machine.environment, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return [line.split(", ") for line in done.stdout.splitlines()]


def number(text: str) -> float | None:
    """Read a figure of nvidia-smi; None for "[N/A]"."""
    return None if text.startswith("[") else float(text)


def mib(nbytes: int | None) -> float | None:
    return None if nbytes is None else nbytes / MIB


def show(value: float | None) -> str:
    return "N/A" if value is None else f"{value:.0f}"


@contextmanager
def child(code: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run Python code in a process of its own; end it afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    with process:
        yield process
        process.kill()
