"""Numbers, names and moments as the screen says them: the command line's words, and those that only a page needs."""

from __future__ import annotations

import math
import time
from datetime import datetime

from relight.wording import (
    count,
    describe_age,
    describe_bytes,
    describe_duration,
    describe_rate,
    describe_value,
)

__all__ = [
    "count",
    "describe_age",
    "describe_bytes",
    "describe_duration",
    "describe_eta",
    "describe_metric",
    "describe_moment",
    "describe_percent",
    "describe_rate",
    "describe_risk",
    "describe_value",
    "short_metric",
    "title_metric",
]

_ACRONYMS = {"lr": "Learning rate", "cpu": "CPU", "gpu": "GPU"}
_SHARES = ("accuracy", "precision", "recall", "f1", "auc")


def describe_metric(name: str | None, value: float | None) -> str:
    """Say a metric's value: shares such as an accuracy as a percentage, everything else with four digits."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if name is not None and is_share(name) and 0 <= value <= 1:
        return f"{100 * value:.2f} %"
    return describe_value(value)


def is_share(name: str) -> bool:
    """Whether a metric goes from 0 to 1 and reads better as a percentage."""
    column = name.rpartition("/")[2]
    return any(column == share or column.endswith("_" + share) for share in _SHARES)


def short_metric(name: str) -> str:
    """The part of a metric's full name after its stream: "accuracy" of "validation/accuracy"."""
    return name.rpartition("/")[2] or name


def title_metric(name: str) -> str:
    """A metric's name as a heading: "Validation accuracy" of "validation/accuracy", "Learning rate" of "train/lr"."""
    stream, _, column = name.rpartition("/")
    if column in _ACRONYMS:
        return _ACRONYMS[column]
    words = f"{stream} {column}".strip().replace("_", " ")
    return words[:1].upper() + words[1:]


def describe_risk(seconds: float | None, steps: int | None) -> str:
    """Say what would be lost now, or what was lost: "12 s, 40 steps"; "nothing" when every step is durable."""
    if not steps:
        return "nothing" if steps == 0 else "–"
    if not seconds:
        return count(steps, "step")
    return f"{describe_duration(seconds)}, {count(steps, 'step')}"


def describe_eta(seconds: float) -> str:
    """Say a time to come in one unit, since it is a guess: "45 s", "12 min", "3.5 h", "2 d"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    if seconds < 36_000:
        return f"{seconds / 3_600:.1f} h"
    return f"{seconds / 3_600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def describe_percent(share: float | None) -> str:
    """Say a share of one as a whole percentage; "–" when unknown."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.0f} %"


def describe_moment(time_s: float | None) -> str:
    """Say a moment in the machine's own time zone: "14:21:05" today, else "23 Nov, 14:21"; "–" when unknown."""
    if not time_s:
        return "–"
    moment, today = datetime.fromtimestamp(time_s), datetime.fromtimestamp(time.time())
    if moment.date() == today.date():
        return moment.strftime("%H:%M:%S")
    if moment.year == today.year:
        return f"{moment.day} {moment:%b, %H:%M}"
    return f"{moment.day} {moment:%b %Y, %H:%M}"
