"""What would be lost if everything died now; for a dead run, what was lost."""

from __future__ import annotations

from dataclasses import dataclass

from relight.runs.progress import Progress
from relight.runs.records import SavingState


@dataclass(frozen=True)
class WorkAtRisk:
    """`step` is the last step edge, `durable_step` the one that a resume continues from (None: from the beginning)."""

    step: int
    durable_step: int | None
    steps: int
    seconds: float


def measure_work_at_risk(
    progress: Progress | None,
    saving: SavingState | None,
    *,
    newest_step: int | None,
    from_step: int,
    live: bool,
    now_s: float,
) -> WorkAtRisk:
    """Seconds and steps since the last durable step edge.

    `newest_step` is that of the newest checkpoint on disk, `from_step` where the attempt began. Seconds run on until
    `now_s` while the run lives, and end with its last step edge otherwise.
    """
    saved_here = saving is not None and saving.durable_step is not None
    step = progress.step if progress is not None else from_step
    if saved_here and newest_step is not None:
        step = max(step, newest_step)  # after a power cut the checkpoint is there and the newest progress may not be
    durable = newest_step
    if durable is not None and durable > step:
        durable = from_step  # resumed from an older checkpoint, and nothing saved since
    steps = max(0, step - (durable or 0))
    if progress is None or (not live and steps == 0):
        return WorkAtRisk(step, durable, steps, 0.0)
    edge_s = _durable_edge_time(progress, saving, durable=durable or 0, from_step=from_step)
    if edge_s <= 0:
        return WorkAtRisk(step, durable, steps, 0.0)
    end_s = now_s if live else progress.time_s
    return WorkAtRisk(step, durable, steps, max(0.0, end_s - edge_s))


def _durable_edge_time(progress: Progress, saving: SavingState | None, *, durable: int, from_step: int) -> float:
    """When the durable step edge was; 0 when the attempt has not begun its first step."""
    if saving is not None and saving.durable_step == durable and saving.durable_time_s is not None:
        return saving.durable_time_s
    if progress.started_s <= 0:
        return 0.0
    if durable <= from_step:
        return progress.started_s
    # The writer committed it, but the trainer was gone before it could note when that edge was.
    if progress.rate <= 0:
        return progress.time_s
    return max(progress.started_s, progress.time_s - (progress.step - durable) / progress.rate)
