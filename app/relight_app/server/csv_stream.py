"""Metrics as CSV, sent while they are being written: a million rows need no memory and no temporary file."""

from __future__ import annotations

import contextlib
import io
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TextIO, cast

import anyio.to_thread

from relight.metrics.csv import write_csv

_CHUNK_CHARACTERS = 128 << 10
_CHUNKS_AHEAD = 4


class _Abandoned(Exception):
    """The browser closed the connection."""


class _Pipe(io.TextIOBase):
    """A text file whose content another thread takes out as chunks of bytes."""

    def __init__(self) -> None:
        self.chunks: queue.Queue[bytes | BaseException | None] = queue.Queue(_CHUNKS_AHEAD)
        self.abandoned = threading.Event()
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
        self.put("".join(self._parts).encode())
        self._parts.clear()
        self._size = 0

    def put(self, item: bytes | BaseException | None) -> None:
        while not self.abandoned.is_set():
            try:
                self.chunks.put(item, timeout=0.2)
                return
            except queue.Full:
                continue
        raise _Abandoned


async def stream_csv(folder: Path, *, streams: Sequence[str] | None, ghosts: bool) -> AsyncIterator[bytes]:
    """Yield the CSV of a `metrics` folder in chunks; a failure aborts the response, which then looks incomplete."""
    pipe = _Pipe()

    def write() -> None:
        try:
            try:
                write_csv(folder, cast(TextIO, pipe), streams=streams, ghosts=ghosts)
                pipe.push()
                pipe.put(None)
            except _Abandoned:
                raise
            except Exception as error:  # the response raises it, so that it does not look complete
                pipe.put(error)
        except _Abandoned:
            pass

    threading.Thread(target=write, name="relight-csv", daemon=True).start()
    try:
        while (chunk := await anyio.to_thread.run_sync(pipe.chunks.get, abandon_on_cancel=True)) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            if chunk:
                yield chunk
    finally:
        pipe.abandoned.set()
        with contextlib.suppress(queue.Full):
            pipe.chunks.put_nowait(None)  # wake up a reader that still waits for a chunk
