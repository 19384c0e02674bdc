"""The one reader of the machine in the dashboard process, shared by all pages and the live stream."""

from __future__ import annotations

import threading

from relight.machine.report import MachinePoint, MachineReader, MachineReport
from relight_app.settings import runs_folder

_WAIT_S = 2.0
_lock = threading.Lock()
_reader: MachineReader | None = None


def latest_machine_report() -> MachineReport:
    """Return the newest figures without waiting. The first call starts the reader."""
    return _start().latest()


def read_cards() -> MachineReport:
    """Return the newest figures. The first call waits a moment for the GPUs."""
    reader = _start()
    reader.wait_for_cards(_WAIT_S)
    return reader.latest()


def machine_history() -> list[MachinePoint]:
    """Return the load of the last hours, since this dashboard was started."""
    return _start().history()


def _start() -> MachineReader:
    global _reader  # noqa: PLW0603
    with _lock:
        if _reader is None:
            _reader = MachineReader(runs_folder())
            _reader.start()
        return _reader


def close_machine_reader() -> None:
    """Stop the reader; a later call of `latest_machine_report` starts it again."""
    global _reader  # noqa: PLW0603
    with _lock:
        if _reader is not None:
            _reader.close()
            _reader = None
