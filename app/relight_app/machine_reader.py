"""The one reader of the machine in the dashboard process, shared by all pages and the live stream."""

from __future__ import annotations

import threading

from relight.machine.report import MachineReader, MachineReport
from relight_app.settings import runs_folder

_lock = threading.Lock()
_reader: MachineReader | None = None


def latest_machine_report() -> MachineReport:
    """Return the newest figures without waiting. The first call starts the reader."""
    global _reader  # noqa: PLW0603
    with _lock:
        if _reader is None:
            _reader = MachineReader(runs_folder())
            _reader.start()
        return _reader.latest()


def close_machine_reader() -> None:
    """Stop the reader; a later call of `latest_machine_report` starts it again."""
    global _reader  # noqa: PLW0603
    with _lock:
        if _reader is not None:
            _reader.close()
            _reader = None
