"""Ctrl-C and SIGTERM while a run is launched or watched: heard, and acted upon where it does no harm."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import typer

TERMINATED = 128 + signal.SIGTERM


class Interruptions:
    """Ctrl-C as a count: the loop decides what the first and the second mean."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Count SIGINT instead of dying of it; SIGTERM leaves in order. What was set before comes back."""

        def interrupt(_number: int, _frame: FrameType | None) -> None:
            self.count += 1

        def terminate(_number: int, _frame: FrameType | None) -> None:
            raise typer.Exit(TERMINATED)

        before = {}
        for number, handler in ((signal.SIGINT, interrupt), (signal.SIGTERM, terminate)):
            # A shell script starts `relight run … &` with SIGINT ignored: its Ctrl-C is not meant for us.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
        try:
            yield
        finally:
            for number, earlier in before.items():
                signal.signal(number, earlier)
