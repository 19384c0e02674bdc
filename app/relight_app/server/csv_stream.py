"""Metrics as CSV, sent while they are being written: a million rows need no memory and no temporary file."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TextIO, cast

from relight.metrics.csv import write_csv

_CHUNK_CHARACTERS = 128 << 10
_CHUNKS_AHEAD = 4
_PATIENCE_S = 60.0
"""A browser that takes nothing for so long has lost its download: it may not keep others waiting."""


class _Abandoned(Exception):
    """The browser closed the connection."""


class _Pipe(io.TextIOBase):
    """A text file whose content arrives on the event loop as chunks of bytes. Only some of them wait there."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self.space = threading.Semaphore(_CHUNKS_AHEAD)
        self.abandoned = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._parts: list[str] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._parts.append(text)
        self._size += len(text)
        if self._size >= _CHUNK_CHARACTERS:
            self.push()
        return len(text)

    def push(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not self.abandoned.is_set():
            if self.space.acquire(timeout=0.2):
                self.end_with("".join(self._parts).encode())
                self._parts.clear()
                self._size = 0
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"The browser has taken nothing of the CSV for {_PATIENCE_S:.0f} s.")
        raise _Abandoned

    def end_with(self, item: bytes | BaseException | None) -> None:
        """Pass on `item` without waiting for space."""
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self.chunks.put_nowait, item)


async def stream_csv(
    folder: Path, *, streams: Sequence[str] | None, ghosts: bool, turns: asyncio.Semaphore
) -> AsyncGenerator[bytes, None]:
    """Yield the CSV of a `metrics` folder in chunks; a failure aborts the response, which then looks incomplete.

    Waits for one of `turns`, which a thread holds while it writes.
    """
    await turns.acquire()
    pipe, loop = _Pipe(), asyncio.get_running_loop()

    def write() -> None:
        try:
            write_csv(folder, cast(TextIO, pipe), streams=streams, ghosts=ghosts)
            pipe.push()
            pipe.end_with(None)
        except _Abandoned:
            pass
        except Exception as error:  # the response raises it, so that it does not look complete
            pipe.end_with(error)
        finally:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(turns.release)

    threading.Thread(target=write, name="relight-csv", daemon=True).start()
    try:
        while (chunk := await pipe.chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            pipe.space.release()
            if chunk:
                yield chunk
    finally:
        pipe.abandoned.set()
