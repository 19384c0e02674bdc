"""The figures of a run that tick on the screen without a rerun."""

from __future__ import annotations

import msgspec

from relight.errors import DamagedFile
from relight.overview.summary import RunSummary, summarize_evidence
from relight.runs.evidence import gather_evidence
from relight.runs.layout import RunLayout


class LiveState(msgspec.Struct, frozen=True, kw_only=True):
    """A run's figures at one moment. Unknown ones are None; `metrics` has the latest values by full name."""

    status: str
    reason: str = ""
    attempt: int = 0
    phase: str | None = None
    step: int = 0
    steps_total: int | None = None
    progress: float | None = None
    """0 to 1."""
    epoch: int | None = None
    """Counted from 1."""
    epochs: int | None = None
    steps_per_s: float | None = None
    eta_s: float | None = None
    elapsed_s: float | None = None
    """Since the launch of the newest attempt, while it runs."""
    work_s: float = 0.0
    durable_step: int | None = None
    work_at_risk_s: float = 0.0
    work_at_risk_steps: int = 0
    best: float | None = None
    best_step: int | None = None
    best_metric: str | None = None
    saving_failure: str | None = None
    metrics: dict[str, float] = {}


def read_live_state(layout: RunLayout) -> LiveState:
    """Read the run's current figures. An unreadable run has the status "damaged" and the error as its reason."""
    try:
        evidence = gather_evidence(layout)
        return make_live_state(summarize_evidence(evidence, traceback=False), now_s=evidence.now_s)
    except DamagedFile as error:
        return LiveState(status="damaged", reason=str(error))


def make_live_state(summary: RunSummary, *, now_s: float) -> LiveState:
    """Take the figures from a summary."""
    best = summary.best
    live = summary.status.is_live
    return LiveState(
        status=str(summary.status),
        reason=summary.reason,
        attempt=summary.attempt,
        phase=summary.phase,
        step=summary.step,
        steps_total=summary.steps_total,
        progress=min(1.0, summary.step / summary.steps_total) if summary.steps_total else None,
        epoch=min(summary.epoch + 1, summary.epochs or summary.epoch + 1),
        epochs=summary.epochs,
        steps_per_s=summary.steps_per_s,
        eta_s=summary.eta_s,
        # Whole seconds, so that the time alone causes at most one event per second.
        elapsed_s=float(int(now_s - summary.started_s)) if live and summary.started_s is not None else None,
        work_s=round(summary.work_s, 1),
        durable_step=summary.durable_step,
        work_at_risk_s=round(summary.work_at_risk_s, 1),
        work_at_risk_steps=summary.work_at_risk_steps,
        best=best.value if best is not None else None,
        best_step=best.step if best is not None else None,
        best_metric=best.metric if best is not None else None,
        saving_failure=summary.saving_failure,
        metrics=summary.metrics,
    )
