"""The Machine page: CPU, memory, disk, GPUs and the processes on them."""

from __future__ import annotations

from relight_app.pages.shown_parts import show_parts


def render() -> None:
    """Mount the page."""
    show_parts("machine", key="machine")
