"""The Branch page: start a run from another run's checkpoint, with changed options."""

from __future__ import annotations

from collections.abc import Mapping

from relight_app.live.component import Mount
from relight_app.pages.shown_parts import show_parts


def list_mounts(query: Mapping[str, str]) -> list[Mount]:
    """Return the form for the run and step that the address names."""
    return [show_parts("branch-form", key="branch", query=query)]
