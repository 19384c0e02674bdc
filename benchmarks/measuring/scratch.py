"""A folder to measure a disk in, that is gone afterwards, also when a signal ends the benchmark."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

DEFAULT_FOLDER = Path("/var/tmp")
"""On a disk by convention, unlike /tmp, and outside the checkout, so that even SIGKILL leaves nothing there."""


@contextmanager
def scratch_folder(name: str, parent: Path) -> Iterator[Path]:
    """Make a new folder in `parent`, and remove it at the end. SIGTERM and SIGHUP raise SystemExit meanwhile."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, _leave) for number in numbers}
    try:
        with tempfile.TemporaryDirectory(prefix=f"relight-{name}-", dir=parent) as folder:
            yield Path(folder)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)
