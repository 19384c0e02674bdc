"""The Launch page: choose a task, set its options, start a run."""

from __future__ import annotations

from relight_app.pages.shown_parts import show_parts


def render() -> None:
    """Mount the form."""
    show_parts("launch-form", "launch-drill", key="launch")
