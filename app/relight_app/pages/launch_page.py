"""The Launch page: choose a task, set its options, start a run."""

from __future__ import annotations

from collections.abc import Mapping

from relight_app.live.component import Mount
from relight_app.pages.shown_parts import show_parts


def list_mounts(_query: Mapping[str, str]) -> list[Mount]:
    """Return the form."""
    return [show_parts("launch-form", "launch-drill", key="launch")]
