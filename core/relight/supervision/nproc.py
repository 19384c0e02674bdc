"""How many processes train a run, as a person asks for it."""

from __future__ import annotations

from relight.errors import UsageError
from relight.supervision.gpu_choice import count_usable_gpus

MOST = 64
"""More ranks on one machine are a typing error."""


def choose_nproc(asked: str | None, *, gpus: tuple[int, ...] | None = None) -> int | None:
    """Return the number of ranks for `--nproc`; None if nothing was asked. "auto" is one for each GPU, at least one.

    If `gpus` are chosen, "auto" counts those. Raises `UsageError` for anything that is not such a number.
    """
    if asked is None:
        return None
    if asked == "auto":
        return max(1, count_usable_gpus(gpus))
    if not asked.isdecimal() or not 1 <= int(asked) <= MOST:
        raise UsageError(f"--nproc {asked} is not a number of processes: use 1 to {MOST}, or auto for one on each GPU.")
    return int(asked)
