"""Summarizes one run or all runs in a few figures, from small files only, so that it costs next to nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from relight.checkpoints.listing import newest_durable
from relight.errors import DamagedFile
from relight.metrics.latest import latest_values
from relight.metrics.metric_direction import word_guess
from relight.metrics.recent import read_recent
from relight.mirror.report import MirrorReport, find_mirror
from relight.overview.death_cause import DeathCause, find_cause
from relight.overview.disk_forecast import DiskForecast, forecast_disk
from relight.overview.non_finite import NonFinite, notice_non_finite, trace_non_finite
from relight.overview.pacing_report import PacingReport, report_pacing
from relight.overview.ranks_report import RankReport, report_ranks
from relight.overview.work_at_risk import measure_work_at_risk
from relight.runs.catalog import list_layouts
from relight.runs.evidence import Evidence, gather_evidence
from relight.runs.fingerprint import FingerprintChange, read_changes, word_resume_caveat
from relight.runs.layout import RunLayout
from relight.runs.progress import Phase, Progress, read_progress
from relight.runs.record_file import read_record_or_none
from relight.runs.records import ImportedFrom, Parent, ResumeCheck, RunRecord
from relight.runs.status import RunStatus, derive_status


class BestSoFar(msgspec.Struct, frozen=True, kw_only=True):
    """The best value of the run's best metric so far. `metric` is its full name."""

    step: int
    metric: str
    value: float


class RunPids(msgspec.Struct, frozen=True, kw_only=True):
    """The processes of the run that live right now."""

    supervisor: int | None = None
    trainer: int | None = None
    writer: int | None = None


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run as in `show --json` and the dashboard's list. The fields are in the order of the JSON."""

    run: str
    name: str
    """The shown name, which a person may have changed since the launch."""
    status: RunStatus
    reason: str
    attempt: int
    step: int
    epoch: int
    steps_total: int | None
    durable_step: int | None
    work_at_risk_s: float
    work_at_risk_steps: int
    best: BestSoFar | None
    metrics: dict[str, float]
    """Latest value by full name."""
    pids: RunPids
    path: str
    note: str
    """What a person has written about the run; "" for nothing."""
    tags: tuple[str, ...]
    starred: bool
    archived: bool
    task: str
    config: dict[str, Any]
    created_s: float
    started_s: float | None
    """When the newest attempt was launched."""
    updated_s: float
    """When the last thing happened."""
    epochs: int | None
    steps_per_s: float | None
    """Rate of the newest attempt."""
    eta_s: float | None
    """Seconds left at that rate; only while it trains."""
    phase: Phase | None
    work_s: float
    """Seconds of training, over all attempts."""
    parent: Parent | None
    imported_from: ImportedFrom | None
    saving_failure: str | None
    """Why checkpoints cannot be saved at the moment, while training continues."""
    pacing: PacingReport | None
    """How often the newest attempt saves, and why; None before it has begun."""
    disk: DiskForecast | None
    """How the run's disk fills up, while it trains; None in lists."""
    mirror: MirrorReport | None
    """The copy of the run elsewhere; None without one, and in lists."""
    environment_changes: tuple[FingerprintChange, ...] | None
    """What has changed since the checkpoint that the newest attempt started from; None in lists."""
    resume_check: ResumeCheck | None
    """What came of comparing the steps that the newest attempt trained again; None until then, and in lists."""
    ranks: tuple[RankReport, ...] | None
    """The ranks of the newest attempt; None for one process, and in lists."""
    gpus: tuple[int, ...] | None
    """The cards that were chosen for the newest attempt; None for all."""
    notes: tuple[str, ...]
    """Sentences for the user: damaged files, checkpoints that a resume skipped, a resume that is not exact."""
    cause: DeathCause | None
    """What ended it, as one word; None while it is live, and after it has finished."""
    non_finite: NonFinite | None
    """A training loss, or the best metric, that is NaN or infinite now; in lists only which one."""
    best_missing: str | None
    """Why there is no best checkpoint although values were logged: its metric is not among them."""
    error: str | None
    traceback: str | None
    """Complete; None in lists."""

    @property
    def environment_caveat(self) -> str:
        """Why the newest attempt may not be bit-identical to what it continues; "" without a known reason."""
        what = "branch" if self.parent is not None and self.attempt == 1 else "resume"
        return word_resume_caveat(self.environment_changes or (), what=what)

    @property
    def resume_difference(self) -> str:
        """What the newest attempt computed otherwise than the attempt before it; "" for nothing."""
        check = self.resume_check
        return check.sentence if check is not None and check.verdict != "exact" else ""


class DamagedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run folder whose run.json cannot be read, and why."""

    run: str
    path: str
    reason: str

    def list_facts(self) -> dict[str, Any]:
        """Return the run as `list --json` prints it: with the keys of a summary, most of them null."""
        nothing = dict.fromkeys(RunSummary.__struct_fields__)
        return {**nothing, "run": self.run, "status": "damaged", "reason": self.reason, "path": self.path}


class RunListing(msgspec.Struct, frozen=True, kw_only=True):
    """All runs of a folder, newest first, and the damaged ones."""

    runs: list[RunSummary]
    damaged: list[DamagedRun]


def list_runs(folder: Path) -> RunListing:
    """Summarize every run in `folder`. A damaged run never hides another."""
    runs: list[RunSummary] = []
    damaged: list[DamagedRun] = []
    for layout in list_layouts(folder):
        try:
            runs.append(summarize_run(layout, traceback=False))
        except DamagedFile as error:
            if layout.folder.is_dir():  # else it was removed this instant
                damaged.append(DamagedRun(run=layout.run_id, path=str(layout.folder), reason=str(error)))
    runs.sort(key=lambda run: (-run.created_s, run.run))
    return RunListing(runs=runs, damaged=damaged)


def summarize_run(layout: RunLayout, *, traceback: bool = True) -> RunSummary:
    """Return the run in a few figures, as of now: `summarize_evidence` of what is there."""
    return summarize_evidence(gather_evidence(layout), traceback=traceback)


def summarize_evidence(evidence: Evidence, *, traceback: bool = True) -> RunSummary:
    """Return the run in a few figures.

    `traceback=False` leaves out what lists have no room for: the traceback, the forecast of the disk, and what
    changed in the environment. Raises `DamagedFile` only for run.json; `notes` names any other damaged file.
    """
    layout, record = evidence.layout, evidence.require_record()
    report = derive_status(evidence)
    progress, saving = evidence.progress, evidence.saving
    known = progress or _earlier_progress(evidence) or Progress()
    live = report.status.is_live
    mirror, mirror_damage = find_mirror(layout) if traceback else (None, None)
    changes = check = ranks = None
    gpus = (evidence.start.chosen_gpus or None) if evidence.start is not None else None
    if traceback and evidence.attempt:
        newest = layout.attempt(evidence.attempt)
        changes = read_changes(newest.environment)
        check = read_record_or_none(newest.resume_check, ResumeCheck)
        world_size = evidence.start.world_size if evidence.start is not None else 1
        ranks = report_ranks(layout, evidence.attempt, world_size=world_size, gpus=gpus or ()) or None
    risk = measure_work_at_risk(evidence, newest_step=_newest_durable_step(layout), live=live)
    training = progress if report.status is RunStatus.RUNNING else None
    metrics = latest_values(layout.metrics)
    best_missing = _explain_missing_best(record, metrics)
    summary = RunSummary(
        run=layout.run_id,
        name=record.name,
        status=report.status,
        reason=report.reason,
        cause=find_cause(evidence, report.status),
        attempt=evidence.attempt,
        step=risk.step,
        epoch=known.epoch,
        steps_total=known.steps_total or None,
        durable_step=risk.durable_step,
        work_at_risk_s=risk.seconds,
        work_at_risk_steps=risk.steps,
        best=_best(record, known),
        metrics=metrics,
        pids=RunPids(supervisor=evidence.supervisor_pid, trainer=evidence.trainer_pid, writer=evidence.writer_pid),
        path=str(layout.folder),
        note=evidence.about.note,
        tags=evidence.about.tags,
        starred=evidence.about.starred,
        archived=evidence.about.archived,
        task=record.task.name,
        config=record.config,
        created_s=record.created_s,
        started_s=evidence.start.time_s if evidence.start is not None else None,
        updated_s=_updated(record, evidence),
        epochs=known.epochs or None,
        steps_per_s=(progress.rate or None) if progress is not None else None,
        eta_s=training.eta_s if training is not None else None,
        phase=training.phase if training is not None else None,
        work_s=known.work_s,
        parent=record.parent,
        imported_from=record.imported_from,
        saving_failure=saving.failure if saving is not None and live else None,
        pacing=report_pacing(saving),
        disk=_forecast_disk(evidence) if traceback and live else None,
        mirror=mirror,
        environment_changes=changes,
        resume_check=check,
        ranks=ranks,
        gpus=gpus,
        notes=(),
        non_finite=(
            trace_non_finite(layout, metrics, record.best_metric)
            if traceback
            else notice_non_finite(metrics, record.best_metric)
        ),
        best_missing=best_missing,
        error=_told(evidence, "error"),
        traceback=_told(evidence, "traceback") if traceback else None,
    )
    began = evidence.start.notes if evidence.start is not None else ()
    guess = _explain_guess(record, metrics)
    bad = summary.non_finite.sentence if traceback and summary.non_finite is not None else None
    said = (bad, summary.environment_caveat, summary.resume_difference, best_missing, guess, mirror_damage)
    notes = (*began, *filter(None, said), *evidence.damage.values())
    return msgspec.structs.replace(summary, notes=notes) if notes else summary


def _newest_durable_step(layout: RunLayout) -> int | None:
    try:
        newest = newest_durable(layout.checkpoints)
    except OSError:
        return None
    return newest[1] if newest is not None else None


def _earlier_progress(evidence: Evidence) -> Progress | None:
    """Return the newest progress of the earlier attempts: what is known until the newest attempt trains."""
    for number in reversed(evidence.attempts[:-1]):
        progress = read_progress(evidence.layout.attempt(number).progress)
        if progress is not None:
            return progress
    return None


def _forecast_disk(evidence: Evidence) -> DiskForecast | None:
    progress, saving = evidence.progress, evidence.saving
    began_s = progress.started_s if progress is not None else 0.0
    return forecast_disk(
        read_recent(evidence.layout.metrics, "system/disk_free_bytes", attempt=evidence.attempt),
        written_bytes=saving.bytes_written if saving is not None else 0,
        writing_s=saving.time_s - began_s if saving is not None and began_s > 0 else 0.0,
    )


def _best(record: RunRecord, progress: Progress) -> BestSoFar | None:
    if progress.best_step < 0 or record.best_metric is None or not math.isfinite(progress.best_value):
        return None
    return BestSoFar(step=progress.best_step, metric=record.best_metric, value=progress.best_value)


def _explain_missing_best(record: RunRecord, metrics: dict[str, float]) -> str | None:
    """Say that the metric which decides the best checkpoint is not among those that its stream logs."""
    wanted = record.best_metric
    if wanted is None or wanted in metrics:
        return None
    stream = wanted.rpartition("/")[0]
    logged = sorted(name for name in metrics if name.rpartition("/")[0] == stream)
    if not logged:
        return None  # nothing has been measured yet, or there is no validation
    return (
        f"There is no best checkpoint: its metric, {wanted}, was never logged. Set best_metric to one that was: "
        f"{', '.join(logged)}."
    )


def _explain_guess(record: RunRecord, metrics: dict[str, float]) -> str | None:
    """Say that the best checkpoint may be the wrong one: nothing says which of two values is better."""
    if not record.direction_guessed or record.best_metric not in metrics:
        return None
    return word_guess(record.best_metric, is_script=record.task.kind == "script")


def _updated(record: RunRecord, evidence: Evidence) -> float:
    parts = (evidence.start, evidence.exit, evidence.progress, evidence.saving)
    return max([record.created_s, *(part.time_s for part in parts if part is not None)])


def _told(evidence: Evidence, field: str) -> str | None:
    """Return a field of the exit record, else of the trainer's own record of its end."""
    for source in (evidence.exit, evidence.outcome):
        text = getattr(source, field, None)
        if text:
            return str(text)
    return None
