"""Samples machine, process tree and GPUs once per second in the background, as flat rows of numbers."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

from relight.machine.gpu import GpuCard, GpuReport
from relight.machine.gpu_watch import GpuWatch
from relight.machine.host import HostReader, HostSample
from relight.machine.pid_namespace import pids_are_the_hosts

_log = logging.getLogger(__name__)

_CLOSING_S = 2.0

HOST_COLUMNS = (
    "cpu_percent",
    "cpu_share_percent",
    "memory_bytes",
    "processes",
    "machine_cpu_percent",
    "machine_memory_bytes",
    "machine_memory_total_bytes",
    "disk_free_bytes",
    "disk_read_bytes_s",
    "disk_write_bytes_s",
)
GPU_COLUMNS = (
    "utilization_percent",
    "memory_bytes",
    "memory_total_bytes",
    "process_memory_bytes",
    "power_w",
    "power_limit_w",
    "temperature_c",
    "throttle_alarm",
)


class MachineSampler:
    """Calls `on_sample(time, values)` every `interval_s` seconds from a daemon thread.

    `time` is in seconds since 1970. The keys of `values` are the same in every sample: `HOST_COLUMNS` and, for each
    card i that was present at the start, `gpu{i}_` + `GPU_COLUMNS`. A figure that cannot be read is NaN. A driver that
    hangs delays the first sample by at most `gpu_wait_s`; later its columns become NaN after some seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        on_sample: Callable[[float, dict[str, float]], None],
        interval_s: float = 1.0,
        gpu_wait_s: float = 5.0,
        gpus: GpuWatch | None = None,
    ) -> None:
        self._folder = folder
        self._on_sample = on_sample
        self._interval_s = interval_s
        self._gpu_wait_s = gpu_wait_s
        self._gpus = gpus or GpuWatch(interval_s=interval_s)
        self._host = HostReader()
        self._roots: tuple[int, ...] = ()
        self._slots: tuple[GpuCard, ...] = ()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relight-machine", daemon=True)
        self._warned = False

    def set_pids(self, root_pid: int | None) -> None:
        """Sample this process and its descendants from now on; None means no process."""
        self._roots = () if root_pid is None else (root_pid,)

    def start(self) -> None:
        """Start sampling; returns at once."""
        self._gpus.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling. After this returns `on_sample` is not called again, unless a reading hangs for over 2 s."""
        self._stop.set()
        self._thread.join(_CLOSING_S)
        self._gpus.close()

    def _run(self) -> None:
        self._gpus.wait_ready(self._gpu_wait_s)
        self._slots = self._gpus.latest().cards
        due = time.monotonic()
        while not self._stop.is_set():
            try:
                host = self._host.read(self._folder, root_pids=self._roots)
                values = host_values(host) | gpu_values(
                    self._gpus.latest(), self._slots, host.pids, host_pids=pids_are_the_hosts()
                )
                self._on_sample(time.time(), values)
            except Exception:  # telemetry warns once and never stops a training
                if not self._warned:
                    self._warned = True
                    _log.warning("A machine sample failed; sampling continues.", exc_info=True)
            # After a suspend or a slow reading, continue from now: a burst of samples to catch up would be useless.
            due = max(due + self._interval_s, time.monotonic())
            self._stop.wait(due - time.monotonic())


def host_values(host: HostSample) -> dict[str, float]:
    """Return the columns of the machine and the process tree, in the order of `HOST_COLUMNS`."""
    return {name: _number(getattr(host, name)) for name in HOST_COLUMNS}


def gpu_values(
    report: GpuReport, slots: tuple[GpuCard, ...], pids: frozenset[int], *, host_pids: bool
) -> dict[str, float]:
    """Return the columns of the cards that were present at the start (`slots`), matched by UUID.

    `pids` are the processes whose GPU memory counts. `host_pids` says whether they are the host's pids, which the
    driver uses.
    """
    by_uuid = {card.uuid: card for card in report.cards if card.uuid}
    by_index = {card.index: card for card in report.cards}
    values: dict[str, float] = {}
    for slot in slots:
        card = by_uuid.get(slot.uuid) if slot.uuid else by_index.get(slot.index)
        card = card or GpuCard(index=slot.index)
        figures = (
            card.utilization_percent,
            card.memory_used_bytes,
            card.memory_total_bytes,
            process_memory_bytes(card, pids, host_pids=host_pids),
            card.power_w,
            card.power_limit_w,
            card.temperature_c,
            card.throttle_alarm,
        )
        for name, figure in zip(GPU_COLUMNS, figures, strict=True):
            values[f"gpu{slot.index}_{name}"] = _number(figure)
    return values


def process_memory_bytes(card: GpuCard, pids: frozenset[int], *, host_pids: bool) -> int | None:
    """Return how much of this card's memory `pids` hold; None when unknown.

    Inside a container our pids are not the host's, which the driver lists: then it means nothing that none is listed.
    """
    if not card.processes_known:
        return None
    ours = [process for process in card.processes if process.pid in pids]
    if not ours:
        return 0 if host_pids else None
    if any(process.memory_bytes is None for process in ours):
        return None
    return sum(process.memory_bytes or 0 for process in ours)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
