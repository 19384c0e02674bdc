"""The line that says how far the copy of a run elsewhere is."""

from __future__ import annotations

from relight.mirror.report import MirrorReport, word_copied, word_waiting
from relight_app.markup import Markup, tag
from relight_app.parts.moments import build_age


def build_mirror(report: MirrorReport) -> Markup:
    """Build one line with what is there, and one with what waits and why."""
    waiting = word_waiting(report)
    failing = report.failure is not None or (bool(report.waiting_checkpoints) and not report.copying)
    age = (", ", build_age(report.copied_s)) if report.copied_s is not None else None
    return tag(
        "div",
        tag("div", word_copied(report, age=""), age, "."),
        tag("div", waiting, role="status") if waiting else None,
        class_="notice warn" if failing else "sub",
        data_key="mirror",
    )
