"""Time limits of tests that hold a promise in seconds, on machines that have other work to do as well."""

from __future__ import annotations

import os


def stretch(seconds: float) -> float:
    """Return the time to allow for what takes at most `seconds` on an idle machine.

    That is `seconds` while there is a core for every process that wants to run, and longer by the load per core, twice
    over, when there is not: the load average lags behind, and a process waits more than once for its turn.
    """
    return seconds * max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))
