"""The machine as a page shows it: host, cards and the processes on them, available at any time without waiting."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import psutil

from relight.machine.gpu import GpuReport
from relight.machine.gpu_watch import GpuWatch
from relight.machine.host import HostReader, HostSample
from relight.machine.pid_namespace import pids_are_the_hosts

_COMMAND_CHARACTERS = 120
_HISTORY_S, _HISTORY_EVERY_S = 6 * 3600.0, 5.0


@dataclass(frozen=True)
class GpuProcessRow:
    """A process on a card. Name, user and command are None when they cannot be read, for example in a container."""

    gpu_index: int
    pid: int
    memory_bytes: int | None
    name: str | None
    user: str | None
    command: str | None


@dataclass(frozen=True)
class MachineReport:
    """The machine at `time` (seconds since 1970). `host` is None until the first reading."""

    time: float
    host: HostSample | None
    gpu: GpuReport
    gpu_processes: tuple[GpuProcessRow, ...]


@dataclass(frozen=True)
class MachinePoint:
    """The load of the machine at `time`: shares from 0 to 1, NaN where unknown. `gpu` has one for each card."""

    time: float
    cpu: float
    memory: float
    gpu: tuple[float, ...]


class MachineReader:
    """Keeps a `MachineReport` up to date in the background, for any number of callers, and remembers the last hours."""

    def __init__(self, folder: Path, *, interval_s: float = 1.0, gpus: GpuWatch | None = None) -> None:
        self._folder = folder
        self._interval_s = interval_s
        self._gpus = gpus or GpuWatch(interval_s=interval_s)
        self._host_reader = HostReader()
        self._host: tuple[float, HostSample] | None = None
        self._history: deque[MachinePoint] = deque(maxlen=int(_HISTORY_S / _HISTORY_EVERY_S))
        self._described: dict[int, tuple[str | None, str | None, str | None]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relight-machine-report", daemon=True)

    def start(self) -> None:
        """Start reading; returns at once."""
        self._gpus.start()
        self._thread.start()

    def latest(self) -> MachineReport:
        """Return the newest figures without blocking. A card that stopped answering has an error instead of figures."""
        gpu = self._gpus.latest()
        at, host = self._host or (time.time(), None)
        described = self._described
        rows = tuple(
            GpuProcessRow(card.index, process.pid, process.memory_bytes, *described.get(process.pid, (None,) * 3))
            for card in gpu.cards
            for process in card.processes
        )
        return MachineReport(time=at, host=host, gpu=gpu, gpu_processes=rows)

    def wait_for_cards(self, timeout_s: float) -> None:
        """Wait until the driver has told which cards there are, at most that long."""
        self._gpus.wait_ready(timeout_s)

    def history(self) -> list[MachinePoint]:
        """Return the load of the last six hours, one point every five seconds."""
        return list(self._history)

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join(2.0)
        self._gpus.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            host = self._host_reader.read(self._folder)
            self._host = (time.time(), host)
            if not self._history or time.time() - self._history[-1].time >= _HISTORY_EVERY_S:
                self._history.append(_measure(time.time(), host, self._gpus.latest()))
            pids = {process.pid for card in self._gpus.latest().cards for process in card.processes}
            self._described = {pid: self._described.get(pid) or _describe(pid) for pid in pids}
            self._stop.wait(self._interval_s)


def _measure(time_s: float, host: HostSample, gpu: GpuReport) -> MachinePoint:
    percents = (host.machine_cpu_percent, *(card.utilization_percent for card in gpu.cards))
    cpu, *cards = (math.nan if percent is None else percent / 100 for percent in percents)
    return MachinePoint(time_s, cpu, host.machine_memory_bytes / max(host.machine_memory_total_bytes, 1), tuple(cards))


def _describe(pid: int) -> tuple[str | None, str | None, str | None]:
    """Return name, user and shortened command of a process; None for each that cannot be read."""
    if not pids_are_the_hosts():  # here the same number is another process
        return None, None, None
    try:
        process = psutil.Process(pid)
        name = process.name()
    except psutil.Error:
        return None, None, None
    user: str | None = None
    command: str | None = None
    try:
        user = process.username()
        command = " ".join(process.cmdline())
    except (psutil.Error, KeyError):
        pass
    if command and len(command) > _COMMAND_CHARACTERS:
        command = command[: _COMMAND_CHARACTERS - 1] + "…"
    return name, user, command or None
