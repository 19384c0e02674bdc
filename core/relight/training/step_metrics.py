"""Writes what each step measured to the metric file: at once on the CPU, and without waiting for a GPU."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from relight.metrics.writer import MetricWriter, OddNames
from relight.training.metric_numbers import Values, clean_names, is_one_number, to_number

_WAIT_ABOVE = 64  # steps that the device may be behind; more would hide that it is stuck


class StepMetrics:
    """Writes one stream of metrics. `latest` holds the values that were written last."""

    def __init__(self, writer: MetricWriter) -> None:
        self.latest: dict[str, float] = {}
        self._writer = writer
        self._pending: deque[_Pending] = deque()
        self._free: dict[int, list[Tensor]] = {}

    def log(self, step: int, values: Values, *, time_s: float) -> None:
        """Log 0-d tensors and numbers by name. Values on a CUDA device follow when the device has computed them.

        A value that is not one number is logged as NaN, and a name that files cannot hold under another one.
        """
        if not self._pending:
            numbers: dict[str, float] = {}
            for name, value in values.items():
                if type(value) is float:
                    numbers[name] = value
                elif isinstance(value, Tensor) and value.is_cuda:
                    break
                else:
                    numbers[name] = to_number(name, value)
            else:
                self._write(step, numbers, time_s)
                return
        tensors = [value for value in values.values() if _is_on_device(value)]
        self._pending.append(self._start_copy(step, values, tensors, time_s))
        self._write_finished(wait_above=_WAIT_ABOVE)

    def flush(self) -> None:
        """Wait for the device and write everything that is pending."""
        self._write_finished(wait_above=0)

    def close(self) -> None:
        """Flush, and close the file."""
        self.flush()
        self._writer.close()

    def _write(self, step: int, numbers: dict[str, float], time_s: float) -> None:
        self.latest = numbers
        try:
            self._writer.log(step, numbers, time_s=time_s)
        except OddNames:
            self.latest = clean_names(numbers)
            self._writer.log(step, self.latest, time_s=time_s)

    def _start_copy(self, step: int, values: Values, tensors: list[Tensor], time_s: float) -> _Pending:
        """Queue one copy of the step's device values to pinned memory, followed by an event."""
        numbers: dict[str, float | None] = {}
        for name, value in values.items():
            numbers[name] = None if _is_on_device(value) else to_number(name, value)
        if not tensors:
            return _Pending(step, numbers, time_s, None, None)
        dtypes = {tensor.dtype for tensor in tensors}
        flat = [tensor.detach().reshape(()) for tensor in tensors]
        stacked = torch.stack(flat if len(dtypes) == 1 else [tensor.double() for tensor in flat]).double()
        free = self._free.setdefault(len(tensors), [])
        host = free.pop() if free else torch.empty(len(tensors), dtype=torch.float64, device="cpu", pin_memory=True)
        host.copy_(stacked, non_blocking=True)
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return _Pending(step, numbers, time_s, host, event)

    def _write_finished(self, *, wait_above: int) -> None:
        while self._pending:
            first = self._pending[0]
            if first.event is not None and not first.event.query():
                if len(self._pending) <= wait_above:
                    return
                first.event.synchronize()
            self._pending.popleft()
            numbers = iter([] if first.host is None else first.host.tolist())
            values = {name: next(numbers) if value is None else value for name, value in first.values.items()}
            self._write(first.step, values, first.time_s)
            if first.host is not None:
                self._free[len(first.host)].append(first.host)


@dataclass(frozen=True)
class _Pending:
    step: int
    values: dict[str, float | None]
    """None for a value that was on the device: it is the next one in `host`."""
    time_s: float
    host: Tensor | None
    event: Any


def _is_on_device(value: Any) -> TypeGuard[Tensor]:
    """Tell whether it is one number on a CUDA device. Anything else there becomes NaN without a copy."""
    return isinstance(value, Tensor) and value.is_cuda and is_one_number(value)
