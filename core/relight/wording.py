"""Words numbers for people: durations, ages, sizes, rates, counts and metric values."""

from __future__ import annotations

import math
from collections.abc import Sequence


def describe_duration(seconds: float | None) -> str:
    """Say a duration in at most two units: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"; "-" when unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    for size, unit, part_size, part in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // part_size
            return f"{whole // size} {unit} {rest} {part}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def describe_age(time_s: float, *, now_s: float) -> str:
    """Say how long ago `time_s` was, in one unit: "just now", "5 min ago", "3 d ago"."""
    age_s = now_s - time_s
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if age_s >= size:
            return f"{age_s // size:.0f} {unit} ago"
    return f"{age_s:.0f} s ago" if age_s >= 5 else "just now"


def describe_bytes(size_bytes: float) -> str:
    """Say a size with three significant digits in decimal units: "312 bytes", "4.18 MB", "1.5 GB"."""
    if size_bytes < 1_000:
        return count(int(size_bytes), "byte")
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        size_bytes /= 1_000
        if size_bytes < 999.5 or unit == "PB":
            break
    return f"{size_bytes:.3g} {unit}"


def describe_value(value: float | None) -> str:
    """Say a metric's value with four significant digits: "0.9876", "1.2e-05", "nan"; "-" when there is none."""
    return "-" if value is None else f"{value:.4g}"


def describe_rate(steps_per_s: float) -> str:
    """Say a rate: "142 steps/s", or "3.2 s/step" when a step takes longer than a second; "" when unknown."""
    if not math.isfinite(steps_per_s) or steps_per_s <= 0:
        return ""
    if steps_per_s < 1:
        return f"{describe_duration(1 / steps_per_s)}/step"
    return f"{steps_per_s:.3g} steps/s" if steps_per_s < 999.5 else f"{steps_per_s:,.0f} steps/s"


def name_some(names: Sequence[str], *, most: int = 8) -> str:
    """List names: "a, b, c", or "a, b and 14 more" when there are more than `most`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Say "1 step", "2 batches", "12,000 steps"; give `plural` for nouns that do not just take an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
