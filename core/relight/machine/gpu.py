"""Reads GPU figures from NVIDIA's management library; a missing sensor is a value, not an exception.

A call into a dead driver can hang forever, so `gpu_watch` makes these calls in threads of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pynvml as nvml

_RETRY_S = 30.0

# Why the library cannot be opened, by NVML error code.
_ABSENT = {
    nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "No NVIDIA driver on this machine: GPU figures are not shown.",
    nvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "The NVIDIA driver is installed but not loaded: run nvidia-smi, which loads it, or reboot to see GPU figures."
    ),
    nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "The NVIDIA driver and its library have different versions, as after an update: reboot to see GPU figures."
    ),
    nvml.NVML_ERROR_NO_PERMISSION: (
        "Your user has no access to the NVIDIA driver: ask for access to /dev/nvidia* to see GPU figures."
    ),
}
_NO_CARD = "The NVIDIA driver is loaded but finds no GPU: GPU figures are not shown."

# What is wrong with one card, by NVML error code. Another code for the memory figures becomes a sentence with its
# number.
_BROKEN = {
    nvml.NVML_ERROR_GPU_IS_LOST: "The driver has lost this card: reboot the machine to bring it back.",
    nvml.NVML_ERROR_GPU_NOT_FOUND: "The driver has lost this card: reboot the machine to bring it back.",
    nvml.NVML_ERROR_RESET_REQUIRED: "This card needs a reset (nvidia-smi --gpu-reset) before it can be used again.",
    nvml.NVML_ERROR_UNINITIALIZED: "The driver was unloaded: this card is read again once it is loaded.",
}

# Codes that a healthy machine returns for a sensor that the card, the driver or the user's permissions do not offer.
_NO_SENSOR = frozenset(
    {nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION, nvml.NVML_ERROR_FUNCTION_NOT_FOUND}
)


@dataclass(frozen=True)
class ThrottleReason:
    """One of the driver's reasons why the clock is below its maximum. `alarm` marks those that are not normal."""

    bit: int
    words: str
    alarm: bool


# Bits: NVML's nvmlClocksEventReason*. A card at full load reaches its power cap; that is not an alarm.
THROTTLE_REASONS = (
    ThrottleReason(nvml.nvmlClocksEventReasonGpuIdle, "idle", False),
    ThrottleReason(nvml.nvmlClocksEventReasonApplicationsClocksSetting, "clocks set by hand", False),
    ThrottleReason(nvml.nvmlClocksEventReasonSwPowerCap, "at its power limit", False),
    ThrottleReason(nvml.nvmlClocksEventReasonSyncBoost, "held to another card's clock", False),
    ThrottleReason(nvml.nvmlClocksEventReasonDisplayClockSetting, "clock set for the display", False),
    ThrottleReason(nvml.nvmlClocksEventReasonHwSlowdown, "slowed down by its hardware", True),
    ThrottleReason(nvml.nvmlClocksEventReasonSwThermalSlowdown, "too hot: slowed down by the driver", True),
    ThrottleReason(nvml.nvmlClocksEventReasonHwThermalSlowdown, "too hot: slowed down by its hardware", True),
    ThrottleReason(nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown, "power supply overloaded: slowed down", True),
)
ALARM_WORDS = frozenset(reason.words for reason in THROTTLE_REASONS if reason.alarm)


@dataclass(frozen=True)
class GpuProcess:
    """A process that computes on a card. `pid` is the host's; `memory_bytes` is None when the driver does not say."""

    pid: int
    memory_bytes: int | None


@dataclass(frozen=True)
class GpuCard:
    """One card at one moment. A sensor that the card or driver does not offer is None.

    When the whole card cannot be read, `error` is a sentence and every figure is None. `throttle_alarm` is None when
    the driver does not say; `processes_known` distinguishes an empty list from an unreadable one.
    """

    index: int
    uuid: str | None = None
    name: str | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilization_percent: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: float | None = None
    max_sm_clock_mhz: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    throttle_alarm: bool | None = None
    processes: tuple[GpuProcess, ...] = ()
    processes_known: bool = False
    error: str | None = None


@dataclass(frozen=True)
class GpuReport:
    """All cards at one moment. Without cards, `absent_reason` says why in one sentence."""

    cards: tuple[GpuCard, ...]
    driver: str | None
    cuda: str | None
    absent_reason: str | None


@dataclass(frozen=True)
class _Identity:
    """The constant properties of a card, read once per UUID."""

    uuid: str | None
    name: str
    max_sm_clock_mhz: float | None


class GpuReader:
    """Reads all cards through NVML, which it opens on first use; after a failure it tries again every 30 seconds.

    `read` does everything in the caller's thread. `open`, `count` and `read_card` may be called from several threads:
    NVML is thread-safe. Nothing about the state of the machine makes a method raise.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._is_open = False
        self._absent: str | None = None
        self._retry_at = float("-inf")
        self._uuids: dict[int, str] = {}
        self._identities: dict[str, _Identity] = {}
        self.driver: str | None = None
        self.cuda: str | None = None

    def open(self) -> str | None:
        """Open the library if it is closed. Return None when it is open, else the sentence that says why not."""
        with self._lock:
            if self._is_open:
                return None
            if self._clock() < self._retry_at:
                return self._absent
            try:
                nvml.nvmlInit()
            except nvml.NVMLError as error:
                self._retry_at = self._clock() + _RETRY_S
                self._absent = _ABSENT.get(
                    error.value, f"The NVIDIA driver cannot be opened ({_words(error)}): GPU figures are not shown."
                )
                return self._absent
            self._is_open = True
            self.driver = _text(_sensor(nvml.nvmlSystemGetDriverVersion))
            cuda = _sensor(nvml.nvmlSystemGetCudaDriverVersion)
            self.cuda = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
            return None

    def count(self) -> int | None:
        """Return the number of cards; None when the library is closed or does not answer."""
        try:
            return int(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError as error:
            self._note(error)
            return None

    def read_card(self, index: int) -> GpuCard:
        """Read one card. A lost or broken card is returned with an `error` and the name it last had."""
        try:
            return self._read_card(index)
        except nvml.NVMLError as error:
            self._note(error)
            uuid = self._uuids.get(index)
            known = self._identities.get(uuid) if uuid else None
            sentence = _BROKEN.get(error.value, f"This card does not answer properly ({_words(error)}).")
            return GpuCard(index=index, uuid=uuid, name=known.name if known else None, error=sentence)

    def read(self) -> GpuReport:
        """Read every card now, in this thread."""
        absent = self.open()
        count = None if absent else self.count()
        cards = tuple(self.read_card(index) for index in range(count or 0))
        return self.report(cards, absent=absent)

    def report(self, cards: Iterable[GpuCard], *, absent: str | None) -> GpuReport:
        """Combine cards and driver versions. With neither cards nor `absent`, the report says that no GPU was found."""
        cards = tuple(cards)
        if not cards and absent is None:
            absent = _NO_CARD
        return GpuReport(cards=cards, driver=self.driver, cuda=self.cuda, absent_reason=absent)

    def close(self) -> None:
        """Close the library. Do not call this while another thread may hang in it."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                _sensor(nvml.nvmlShutdown)

    def _note(self, error: Any) -> None:
        # The driver was reloaded: open the library again at the next reading.
        if error.value == nvml.NVML_ERROR_UNINITIALIZED:
            self._is_open = False

    def _read_card(self, index: int) -> GpuCard:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        identity = self._identity(index, handle)
        # Memory shows whether the card works: any error but "no such sensor" means that the card itself is broken.
        memory = _sensor(nvml.nvmlDeviceGetMemoryInfo, handle, strict=True)
        utilization = _sensor(nvml.nvmlDeviceGetUtilizationRates, handle)
        power_mw = _sensor(nvml.nvmlDeviceGetPowerUsage, handle)
        limit_mw = _sensor(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        reasons = _throttle_bits(handle)
        processes = _processes(handle)
        return GpuCard(
            index=index,
            uuid=identity.uuid,
            name=identity.name,
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            utilization_percent=None if utilization is None else float(utilization.gpu),
            power_w=None if power_mw is None else power_mw / 1000,
            power_limit_w=None if limit_mw is None else limit_mw / 1000,
            temperature_c=_number(_sensor(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)),
            sm_clock_mhz=_number(_sensor(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)),
            max_sm_clock_mhz=identity.max_sm_clock_mhz,
            throttle_reasons=tuple(reason.words for reason in THROTTLE_REASONS if reasons and reasons & reason.bit),
            throttle_alarm=None if reasons is None else any(r.alarm and reasons & r.bit for r in THROTTLE_REASONS),
            processes=() if processes is None else processes,
            processes_known=processes is not None,
        )

    def _identity(self, index: int, handle: Any) -> _Identity:
        uuid = _text(_sensor(nvml.nvmlDeviceGetUUID, handle))
        if uuid is not None:
            self._uuids[index] = uuid
            if uuid in self._identities:
                return self._identities[uuid]
        identity = _Identity(
            uuid=uuid,
            name=_text(_sensor(nvml.nvmlDeviceGetName, handle)) or "NVIDIA GPU",
            max_sm_clock_mhz=_number(_sensor(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM)),
        )
        if uuid is not None:
            self._identities[uuid] = identity
        return identity


def _sensor(call: Callable[..., Any], *args: Any, strict: bool = False) -> Any:
    """Return the call's answer; None for a missing sensor.

    A lost card always raises. Other failures count as a missing sensor, except that `strict` raises them.
    """
    try:
        return call(*args)
    except nvml.NVMLError as error:
        if error.value in _BROKEN or (strict and error.value not in _NO_SENSOR):
            raise
        return None


def _throttle_bits(handle: Any) -> int | None:
    """Return why the clock is not at its maximum, as NVML's bits; older drivers use the older name of the call."""
    for call in (nvml.nvmlDeviceGetCurrentClocksEventReasons, nvml.nvmlDeviceGetCurrentClocksThrottleReasons):
        bits = _sensor(call, handle)
        if bits is not None:
            return int(bits)
    return None


def _processes(handle: Any) -> tuple[GpuProcess, ...] | None:
    # With older drivers, the binding's unversioned function raises a mismatch error; the versioned ones do not.
    for call in (nvml.nvmlDeviceGetComputeRunningProcesses_v3, nvml.nvmlDeviceGetComputeRunningProcesses_v2):
        rows = _sensor(call, handle)
        if rows is not None:
            return tuple(GpuProcess(pid=int(row.pid), memory_bytes=row.usedGpuMemory) for row in rows)
    return None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _words(error: Any) -> str:
    return f"NVML code {error.value}: {error}"
