"""The stream "system": samples of the machine, the processes and the GPUs during an attempt, one row per second."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from relight.metrics.writer import MetricWriter
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.progress import read_progress

if TYPE_CHECKING:
    from relight.machine.machine_sampler import MachineSampler

STREAM = "system"
_INTERVAL_S = 1.0

_log = logging.getLogger(__name__)


class SystemMetrics:
    """Samples the machine in the background. A failure here is logged once and never stops a training."""

    def __init__(self, layout: RunLayout, attempt: AttemptLayout) -> None:
        self._folder = layout.folder
        self._progress = attempt.progress
        self._writer = MetricWriter(layout.metrics, stream=STREAM, attempt=attempt.number)
        self._sampler: MachineSampler | None = None

    def start(self, trainer_pid: int) -> None:
        """Start sampling the trainer and its descendants in the background."""
        try:
            # Imported while the trainer loads torch, so that the trainer does not wait for this import.
            from relight.machine.machine_sampler import MachineSampler

            self._sampler = MachineSampler(self._folder, on_sample=self._log, interval_s=_INTERVAL_S)
            self._sampler.set_pids(trainer_pid)
            self._sampler.start()
        except Exception:
            _log.warning(
                "CPU, memory and GPU readings are not available. Training continues without the machine charts.",
                exc_info=True,
            )

    def close(self) -> None:
        """Stop sampling and close the file."""
        if self._sampler is not None:
            self._sampler.stop()
        self._writer.close()

    def _log(self, time_s: float, values: dict[str, float]) -> None:
        progress = read_progress(self._progress)
        self._writer.log(progress.step if progress else 0, values, time_s=time_s)
