"""Phrases about a run's summary that several commands use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.wording import count, describe_bytes, describe_duration, describe_rate, describe_value

if TYPE_CHECKING:
    from relight.checkpoints.listing import CheckpointInfo
    from relight.overview.summary import RunSummary


def word_best(summary: RunSummary) -> str:
    """Say the best value so far and where it was; "" while there is none."""
    best = summary.best
    return f"{best.metric} {describe_value(best.value)} at step {best.step}" if best else ""


def word_risk(summary: RunSummary) -> str:
    """Say how much work is at risk, or, for a dead run, was lost; "" for none."""
    if not summary.work_at_risk_steps:
        return ""
    words = f"{count(summary.work_at_risk_steps, 'step')}, {describe_duration(summary.work_at_risk_s)}"
    pacing = summary.pacing
    if pacing is None or not summary.status.is_live or summary.work_at_risk_s <= pacing.at_risk_limit_s:
        return words
    return f"{words}: more than the {describe_duration(pacing.at_risk_limit_s)} that was planned"


def word_disk(summary: RunSummary) -> str:
    """Say how the disk fills up: "4.2 GB written per day, 12 GB free: full in 4 h 10 min at this rate"."""
    disk = summary.disk
    if disk is None:
        return ""
    written = f"{describe_bytes(disk.written_bytes_a_day)} written per day, " if disk.written_bytes_a_day else ""
    full = "" if disk.full_in_s is None else f": full in {describe_duration(disk.full_in_s)} at this rate"
    return f"{written}{describe_bytes(disk.free_bytes)} free{full if disk.free_bytes else ''}"


def word_progress(summary: RunSummary) -> str:
    """Say how far the run is: "155/276 56%"."""
    if not summary.steps_total:
        return count(summary.step, "step")
    return f"{summary.step}/{summary.steps_total} {int(100 * summary.step / summary.steps_total)}%"


def word_pace(summary: RunSummary) -> str:
    """Say how far the run is, how fast it is, and how much time is left."""
    parts = [word_progress(summary), describe_rate(summary.steps_per_s or 0)]
    if summary.eta_s is not None:
        parts.append(f"{describe_duration(summary.eta_s)} left")
    return ", ".join(filter(None, parts))


def word_checkpoint(info: CheckpointInfo) -> str:
    """Say which checkpoint has become durable, and why it was saved."""
    return f"checkpoint at step {info.step} ({info.reason}, {describe_bytes(info.bytes)})"
