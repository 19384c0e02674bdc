"""Notices about problems, with their complete traceback."""

from __future__ import annotations

from relight_app.markup import Markup, tag
from relight_app.problems import Problem


def build_problem(problem: Problem, *, key: str) -> Markup:
    """Build the notice of a problem, with its traceback if there is one."""
    return tag(
        "div",
        tag("div", problem.sentence),
        build_traceback(problem.traceback, key=f"{key}-traceback") if problem.traceback else None,
        class_="notice bad",
        role="alert",
    )


def build_traceback(text: str, *, key: str) -> Markup:
    """Build a complete traceback that can be collapsed and copied."""
    return tag(
        "details",
        tag("summary", "Traceback"),
        tag(
            "div",
            tag("button", "Copy", type="button", class_="button small", data_copy=key),
            tag("pre", text.strip("\n"), class_="text", id=key, tabindex="0", role="region", aria_label="Traceback",
                data_follow=True),
            class_="copyable",
        ),
        open=True,
    )  # fmt: skip
