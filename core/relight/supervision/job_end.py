"""The end of a run whose supervisor is the process of a job: what else ends with that process may need some time."""

from __future__ import annotations

import time

from relight.mirror.report import find_mirror
from relight.runs.layout import RunLayout
from relight.supervision.orphans import find_lock_holders

MIRROR_WAIT_S = 600.0
_POLL_S = 0.2


def wait_for_others(layout: RunLayout) -> None:
    """Wait for what ends with the job: the checkpoint writer, and the process that copies the run elsewhere."""
    while find_lock_holders(layout):
        time.sleep(_POLL_S)
    until = time.monotonic() + MIRROR_WAIT_S
    while time.monotonic() < until and (copy := find_mirror(layout)[0]) is not None and copy.copying:
        time.sleep(_POLL_S)
