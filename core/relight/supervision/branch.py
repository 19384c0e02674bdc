"""Starting a new run from another's checkpoint, with a changed config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relight.runs.layout import RunLayout
from relight.supervision.attempt import Launched


def branch_run(
    layout: RunLayout,
    *,
    from_: str | int,
    config_changes: Mapping[str, Any],
    name: str | None = None,
    token: str | None = None,
    command: Sequence[str] | None = None,
) -> Launched:
    """Create a run beside `layout`'s from its checkpoint `from_` ("latest", "best" or a step) and start it.

    The checkpoint is copied into the child's own store, and pinned in the parent by the label "parent".
    """
    raise NotImplementedError
