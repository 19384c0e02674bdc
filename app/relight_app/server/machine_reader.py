"""One reader of the machine for the whole dashboard process, shared by every page and the live stream."""

from __future__ import annotations

import threading

from relight.machine.report import MachineReader, MachineReport
from relight_app.server.settings import runs_folder

_lock = threading.Lock()
_reader: MachineReader | None = None


def latest_machine_report() -> MachineReport:
    """The newest figures; never waits. The first call starts the reader."""
    global _reader  # noqa: PLW0603
    with _lock:
        if _reader is None:
            _reader = MachineReader(runs_folder())
            _reader.start()
        return _reader.latest()


def close_machine_reader() -> None:
    """Stop reading; a later call of `latest_machine_report` starts again."""
    global _reader  # noqa: PLW0603
    with _lock:
        if _reader is not None:
            _reader.close()
            _reader = None
