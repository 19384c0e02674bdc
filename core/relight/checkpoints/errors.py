"""The store's own errors, beside those that the whole engine shares."""

from __future__ import annotations

from relight.errors import RelightError, UsageError


class UnsupportedState(UsageError):
    """The training state holds something that a checkpoint cannot represent; the message names its owner."""


class ExportError(RelightError):
    """Weights could not be exported; whatever lay under that name before still does."""


class SaveError(RelightError):
    """A checkpoint could not be written. Whatever was durable before still is; training may go on."""
