"""The start page: every run in the folder."""

from __future__ import annotations

from relight_app.pages.shown_parts import show_parts


def render() -> None:
    """Mount the list."""
    show_parts("runs", key="runs")
