"""Handles Ctrl-C and SIGTERM while a run is being launched or watched."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import typer

TERMINATED = 128 + signal.SIGTERM


class Interruptions:
    """A count of Ctrl-C presses. The loop that reads it decides what the first and the second one mean."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Count SIGINT instead of dying from it, and exit cleanly on SIGTERM; restore the handlers at the end."""

        def interrupt(_number: int, _frame: FrameType | None) -> None:
            self.count += 1

        def terminate(_number: int, _frame: FrameType | None) -> None:
            raise typer.Exit(TERMINATED)

        before = {}
        for number, handler in ((signal.SIGINT, interrupt), (signal.SIGTERM, terminate)):
            # A shell script starts `relight run … &` with SIGINT ignored: its Ctrl-C is not meant for this process.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
        try:
            yield
        finally:
            for number, earlier in before.items():
                signal.signal(number, earlier)
