"""The one error for weights that were made elsewhere."""

from __future__ import annotations

from relight.errors import RelightError


class WeightsRefused(RelightError):
    """The weights cannot be imported: one sentence says which file, why, and what to do. Nothing was created."""
