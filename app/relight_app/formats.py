"""Texts that only the pages need for metrics, risks and options; `relight.wording` has the rest."""

from __future__ import annotations

import math
from typing import Any

from relight.wording import count, describe_duration, describe_value

_ACRONYMS = {"lr": "Learning rate", "cpu": "CPU", "gpu": "GPU"}
_SHARES = ("accuracy", "precision", "recall", "f1", "auc")


def describe_metric(name: str, value: float) -> str:
    """Describe a metric's value: shares such as an accuracy in percent, everything else with four digits."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if is_share(name) and 0 <= value <= 1:
        return f"{100 * value:.2f} %"
    return describe_value(value)


def is_share(name: str) -> bool:
    """Return whether the metric ranges from 0 to 1 and reads better in percent."""
    column = name.rpartition("/")[2]
    return any(column == share or column.endswith("_" + share) for share in _SHARES)


def short_metric(name: str) -> str:
    """Return a metric's name without its stream: "accuracy" for "validation/accuracy"."""
    return name.rpartition("/")[2] or name


def title_metric(name: str) -> str:
    """Return a metric's name as a heading: "Validation accuracy", or "Learning rate" for "train/lr"."""
    stream, _, column = name.rpartition("/")
    if column in _ACRONYMS:
        return _ACRONYMS[column]
    words = f"{stream} {column}".strip().replace("_", " ")
    return words[:1].upper() + words[1:]


def describe_risk(seconds: float, steps: int) -> str:
    """Describe work at risk or lost work: "12 s, 40 steps"; "nothing" when every step is durable."""
    if not steps:
        return "nothing"
    if not seconds:
        return count(steps, "step")
    return f"{describe_duration(seconds)}, {count(steps, 'step')}"


def describe_option(value: Any) -> str:
    """Describe a config's value as `--set` takes it; "none" when it is None or empty."""
    if isinstance(value, bool):
        return str(value).lower()
    if value in (None, ""):
        return "none"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
