"""The stream "system": what machine, processes and GPUs did while an attempt ran, one row a second."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from relight.metrics.writer import MetricWriter
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.progress import read_progress

if TYPE_CHECKING:
    from relight.machine.machine_sampler import MachineSampler

STREAM = "system"

_log = logging.getLogger(__name__)


class SystemMetrics:
    """Samples the machine in the background. Telemetry: whatever fails here is said once and stops nothing."""

    def __init__(self, layout: RunLayout, attempt: AttemptLayout, *, interval_s: float = 1.0) -> None:
        self._folder = layout.folder
        self._progress = attempt.progress
        self._interval_s = interval_s
        self._writer = MetricWriter(layout.metrics, stream=STREAM, attempt=attempt.number)
        self._sampler: MachineSampler | None = None

    def start(self, trainer_pid: int) -> None:
        """Sample the trainer and its descendants from now on; returns at once."""
        try:
            # Imported while the trainer loads torch, so that it need not wait for this.
            from relight.machine.machine_sampler import MachineSampler

            self._sampler = MachineSampler(self._folder, on_sample=self._log, interval_s=self._interval_s)
            self._sampler.set_pids(trainer_pid)
            self._sampler.start()
        except Exception:
            _log.warning("The machine cannot be sampled; training goes on without its curves.", exc_info=True)

    def close(self) -> None:
        """Stop sampling and close the file."""
        if self._sampler is not None:
            self._sampler.stop()
        self._writer.close()

    def _log(self, time_s: float, values: dict[str, float]) -> None:
        progress = read_progress(self._progress)
        self._writer.log(progress.step if progress else 0, values, time_s=time_s)
