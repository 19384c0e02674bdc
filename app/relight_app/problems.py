"""An error as a page shows it: one sentence, and a traceback where one helps."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass

from relight.errors import RelightError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """One sentence for a person. `traceback` is complete: from the person's own code, or from a bug in Relight."""

    sentence: str
    traceback: str | None = None


def explain(error: BaseException) -> Problem:
    """Return the sentence that the command line also prints for `error`. Other exceptions are bugs in Relight."""
    if isinstance(error, RelightError):
        return Problem(str(error), getattr(error, "traceback", None))
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return Problem(f"The operating system reported an error: {error.strerror or error}{where}.")
    _log.error("unexpected error on a page", exc_info=error)
    return Problem(
        f"Relight has a bug: {type(error).__name__}: {error}. Please report it with the traceback below.",
        "".join(traceback.format_exception(error)),
    )
