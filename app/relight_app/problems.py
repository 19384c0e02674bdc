"""What went wrong, as the screen says it: one sentence, and a traceback where one helps."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass

from relight.errors import RelightError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """One sentence for a person. `traceback` is whole: of the person's own code, or of a bug of ours."""

    sentence: str
    traceback: str | None = None


def explain(error: BaseException) -> Problem:
    """The same sentence that the command line prints for `error`; anything that is no `RelightError` is a bug."""
    if isinstance(error, RelightError):
        return Problem(str(error), getattr(error, "traceback", None))
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return Problem(f"The system refused: {error.strerror or error}{where}.")
    _log.error("a bug met by a page", exc_info=error)
    return Problem(
        f"Relight itself failed here: {type(error).__name__}: {error}. Please report it with the lines below.",
        "".join(traceback.format_exception(error)),
    )
