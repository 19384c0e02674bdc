"""Measures the work at risk: what would be lost if everything died now or, for a dead run, what was lost."""

from __future__ import annotations

from dataclasses import dataclass

from relight.runs.evidence import Evidence
from relight.runs.progress import Progress
from relight.runs.records import SavingState

UNPACED_LIMIT_S = 120.0
"""What a run of an older version may have at risk without a warning."""


@dataclass(frozen=True)
class WorkAtRisk:
    """`step` is the last step edge; `durable_step` is where a resume continues (None: at the beginning)."""

    step: int
    durable_step: int | None
    steps: int
    seconds: float


def find_last_step(evidence: Evidence, *, newest_step: int | None) -> int:
    """Return the last step edge that the newest attempt is known to have reached.

    `newest_step` is the step of the newest checkpoint on disk; None when there is none.
    """
    progress, saving = evidence.progress, evidence.saving
    step = progress.step if progress is not None else _from_step(evidence)
    if newest_step is not None and saving is not None and saving.durable_step is not None:
        # After a power cut the attempt's checkpoint may be there and its newest progress not.
        return max(step, newest_step)
    return step


def measure_work_at_risk(evidence: Evidence, *, newest_step: int | None, live: bool) -> WorkAtRisk:
    """Measure the seconds and steps since the last durable step edge.

    `newest_step` is the step of the newest checkpoint on disk; None when there is none. For a live run the seconds
    count until now, for a dead one until its last step edge.
    """
    progress, saving, from_step = evidence.progress, evidence.saving, _from_step(evidence)
    step = find_last_step(evidence, newest_step=newest_step)
    durable = newest_step
    if durable is not None and durable > step:
        durable = from_step  # resumed from an older checkpoint, and nothing saved since
    steps = max(0, step - (durable or 0))
    if progress is None or (not live and steps == 0):
        return WorkAtRisk(step, durable, steps, 0.0)
    edge_s = _durable_edge_time(progress, saving, durable=durable or 0, from_step=from_step)
    if edge_s <= 0:
        return WorkAtRisk(step, durable, steps, 0.0)
    end_s = evidence.now_s if live else progress.time_s
    return WorkAtRisk(step, durable, steps, max(0.0, end_s - edge_s))


def limit_risk(saving: SavingState | None) -> float:
    """Return how many seconds may be at risk before that deserves a warning.

    That is the promised `max_loss_s`, or what a pace that cannot keep it was planned for; with a fixed interval, twice
    what that leaves at risk.
    """
    pace = saving.pace if saving is not None else None
    if pace is None:
        return UNPACED_LIMIT_S
    if pace.at_risk_s is None:
        return pace.max_loss_s
    return 2 * pace.at_risk_s if pace.reason == "fixed" else max(pace.max_loss_s, pace.at_risk_s)


def _from_step(evidence: Evidence) -> int:
    return evidence.start.from_step if evidence.start is not None else 0


def _durable_edge_time(progress: Progress, saving: SavingState | None, *, durable: int, from_step: int) -> float:
    """Return when the durable step edge was; 0 when the attempt has not begun its first step."""
    if saving is not None and saving.durable_step == durable and saving.durable_time_s is not None:
        return saving.durable_time_s
    if progress.started_s <= 0:
        return 0.0
    if durable <= from_step:
        return progress.started_s
    # The writer committed it, but the trainer died before it could record when that edge was.
    if progress.rate <= 0:
        return progress.time_s
    return max(progress.started_s, progress.time_s - (progress.step - durable) / progress.rate)
