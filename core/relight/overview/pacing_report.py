"""Explains how often a run saves, in one sentence, for the command line and the dashboard alike."""

from __future__ import annotations

import msgspec

from relight.overview.work_at_risk import limit_risk
from relight.runs.records import Pace, PaceReason, SavingState
from relight.wording import describe_bytes, describe_duration

_DAY_S = 86_400.0
_WORTH_SAYING_BYTES = 1e9
"""Less than this per day wears no drive out."""


class PacingReport(msgspec.Struct, frozen=True, kw_only=True):
    """How often a run's newest attempt saves, as in `show --json`. Null for what is not known."""

    sentence: str
    reason: PaceReason
    interval_s: float | None
    every_steps: int | None
    cost_s: float | None
    """Seconds of training that a checkpoint costs."""
    overhead: float | None
    """Share of the training time that checkpoints cost at this interval."""
    spent_s: float
    """Seconds of training that this attempt's checkpoints have cost so far."""
    durable_s: float | None
    at_risk_limit_s: float
    """More than this at risk is not as planned."""
    bytes_a_day: float | None
    """What checkpoints write per day at this interval."""
    failure_every_s: float | None


def report_pacing(saving: SavingState | None) -> PacingReport | None:
    """Report the pace of an attempt; None before it has begun, and for one of an older version."""
    if saving is None or saving.pace is None:
        return None
    pace = saving.pace
    return PacingReport(
        sentence=explain_pace(pace),
        reason=pace.reason,
        interval_s=pace.interval_s,
        every_steps=pace.every_steps or None,
        cost_s=pace.cost_s,
        overhead=_share(pace),
        spent_s=saving.spent_s,
        durable_s=pace.durable_s,
        at_risk_limit_s=limit_risk(saving),
        bytes_a_day=_bytes_a_day(pace),
        failure_every_s=pace.failure_every_s,
    )


def explain_pace(pace: Pace) -> str:
    """Say how often checkpoints are cut and why: "Every 2 min 10 s: a checkpoint costs 1.3 s of training, 1 % …"."""
    if pace.reason == "off":
        return "Checkpoints at regular times are off (checkpoint_every_s=0)."
    if pace.reason == "first":
        return (
            f"The first checkpoint is made after {describe_duration(pace.interval_s)}; its cost then decides how often."
        )
    cost = _word_cost(pace)
    if pace.reason == "fixed":
        return f"{_word_fixed(pace)}{cost and ': ' + cost}."
    every = f"Every {describe_duration(pace.interval_s)}"
    if pace.reason == "loss":
        if (pace.at_risk_s or 0.0) > pace.max_loss_s * 1.001:
            return f"{every}, as fast as possible: up to {describe_duration(pace.at_risk_s)} are at risk, {_why(pace)}."
        every += f", so that at most {describe_duration(pace.max_loss_s)} are at risk"
    if not cost:
        return f"{every}, until the cost of a checkpoint is measured."
    return f"{every}: {cost}{_word_limit(pace)}."


def _word_fixed(pace: Pace) -> str:
    steps = f"every {pace.every_steps:,} steps" if pace.every_steps > 1 else "every step"
    seconds = f"Every {describe_duration(pace.every_s or pace.interval_s)}"
    if not pace.every_steps:
        return f"{seconds}, as checkpoint_every_s says"
    if pace.every_s:
        return f"{seconds} and {steps}, as checkpoint_every_s and checkpoint_every_steps say"
    return f"E{steps[1:]}, as checkpoint_every_steps says"


def _why(pace: Pace) -> str:
    """Say why the promise cannot be kept."""
    durable_s, step_s = pace.durable_s or 0.0, pace.step_s or 0.0
    slow = f"a step takes {describe_duration(step_s)}"
    if durable_s >= step_s:
        slow = f"a checkpoint takes {describe_duration(durable_s)} to become durable"
    return f"more than max_loss_s, since {slow}"


def _word_cost(pace: Pace) -> str:
    share = _share(pace)
    if pace.cost_s is None:
        return ""
    of_time = "" if share is None else f", {_describe_share(share)} of your time"
    written = _bytes_a_day(pace) or 0.0
    disk = f", and writes {describe_bytes(written)} a day" if written >= _WORTH_SAYING_BYTES else ""
    return f"a checkpoint costs {_describe_cost(pace.cost_s)} of training{of_time}{disk}"


def _word_limit(pace: Pace) -> str:
    """Say which limit of the budget is reached or, for the promise about loss, exceeded."""
    share, written = _share(pace) or 0.0, _bytes_a_day(pace) or 0.0
    if pace.reason == "overhead":
        return "; more often would exceed max_overhead"
    if pace.reason == "bytes":
        return f"; more often would exceed the {describe_bytes(pace.bytes_a_day or 0)} a day that the disk is made for"
    parts = []
    if pace.reason == "loss" and share > pace.max_overhead * 1.001:
        parts.append(f"the {_describe_share(pace.max_overhead)} of max_overhead")
    if pace.reason == "loss" and pace.bytes_a_day is not None and written > pace.bytes_a_day:
        parts.append(f"the {describe_bytes(pace.bytes_a_day)} a day that the disk is made for")
    return f"; that is more than {' and '.join(parts)}: a larger max_loss_s saves less often" if parts else ""


def _share(pace: Pace) -> float | None:
    if pace.cost_s is None or not pace.interval_s:
        return None
    return min(1.0, pace.cost_s / pace.interval_s)


def _bytes_a_day(pace: Pace) -> float | None:
    if pace.checkpoint_bytes is None or not pace.interval_s:
        return None
    return pace.checkpoint_bytes / pace.interval_s * _DAY_S


def _describe_cost(seconds: float) -> str:
    return describe_duration(seconds) if seconds >= 0.095 else f"{max(seconds * 1000, 1):.0f} ms"


def _describe_share(share: float) -> str:
    percent = 100 * share
    return "less than 0.01 %" if percent < 0.01 else f"{percent:.2g} %" if percent < 99.5 else "all"
