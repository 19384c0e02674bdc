"""Output that never stops a training: what cannot be written (a full disk, a lost network share) is dropped."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from typing import Any


class TolerantFile(io.RawIOBase):
    """Writes to a descriptor. If the file system fails, text is lost, but nothing raises.

    `print` and `logging` work again as soon as there is space. The first text after a gap says how much is missing.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._dropped = 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        """Write as much as possible; always return the full length."""
        view = memoryview(data).cast("B")
        count = len(view)
        try:
            if self._dropped:
                note = f"[{self._dropped} bytes of output are missing here, because the log could not be written.]\n"
                os.write(self._descriptor, note.encode())
                self._dropped = 0
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            self._dropped += len(view)
        return count


def tolerate_write_errors() -> None:
    """Replace `sys.stdout` and `sys.stderr` with streams that write line by line and never raise.

    They accept every character, and the lines of both streams keep their order in the one log file.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        # A buffer of one byte: text reaches the file at once, and nothing is left to write when the process ends.
        buffer = io.BufferedWriter(TolerantFile(descriptor), buffer_size=1)
        stream = io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)


def log_to(stream: Any, *, prefix: str = "") -> None:
    """Send the messages of Relight's logger to `stream` and nowhere else, from level INFO on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    logger = logging.getLogger("relight")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class TeeStream:
    """A text stream that also writes to a log. If one of them cannot be written, only that one loses text."""

    def __init__(self, stream: Any, descriptor: int) -> None:
        self._stream = stream
        self._log = TolerantFile(descriptor)

    def write(self, text: str) -> int:
        """Write to both."""
        self._log.write(text.encode("utf-8", "backslashreplace"))
        with contextlib.suppress(OSError, ValueError):  # a closed terminal or pipe, a full disk; a closed stream
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream; the log has no buffer."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def writelines(self, lines: Any) -> None:
        """Write each line to both."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
