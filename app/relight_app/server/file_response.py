"""Sends an open file, or the range of it that a browser asks for, by threads that do nothing else."""

from __future__ import annotations

import io
import os
import re
from collections.abc import AsyncGenerator, Mapping
from email.utils import formatdate

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from relight_app.server.browser_work import ClosingResponse

_CHUNK_BYTES = 1 << 20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class OpenFile:
    """A regular file that is open for reading, as large as it was at that moment. Owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._file = io.FileIO(descriptor)
        self._status = os.fstat(descriptor)

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self._status.st_size

    @property
    def etag(self) -> str:
        """A tag that changes whenever the file is replaced or written."""
        return f'"{self._status.st_ino:x}-{self._status.st_mtime_ns:x}-{self._status.st_size:x}"'

    @property
    def modified(self) -> str:
        """When the file was last written, as a header has it."""
        return formatdate(self._status.st_mtime, usegmt=True)

    async def read(self, begin: int, end: int, readers: anyio.CapacityLimiter) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from `begin` to `end`; fewer if the file has become shorter. Then close it."""
        with self._file as file:
            while begin < end:
                count = min(end - begin, _CHUNK_BYTES)
                chunk = await anyio.to_thread.run_sync(os.pread, file.fileno(), count, begin, limiter=readers)
                if not chunk:
                    raise OSError("The file has become shorter while it was sent.")  # so it does not look complete
                begin += len(chunk)
                yield chunk


def send_file(
    file: OpenFile,
    request: Request,
    *,
    headers: Mapping[str, str],
    media_type: str,
    readers: anyio.CapacityLimiter,
    ranges: bool = True,
) -> Response:
    """Return the response with the file, or with the one range of it that the request asks for."""
    headers = {**headers, "Last-Modified": file.modified}
    begin, end, status = 0, file.size, 200
    if ranges:
        headers["Accept-Ranges"] = "bytes"
        asked = _parse_range(request, file)
        if asked is not None:
            begin, end = asked
            if begin >= end:
                headers["Content-Range"] = f"bytes */{file.size}"
                return Response(status_code=416, headers=headers)
            status = 206
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{file.size}"
    headers["Content-Length"] = str(end - begin)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    body = file.read(begin, end, readers)
    return ClosingResponse(body, status_code=status, headers=headers, media_type=media_type)


def _parse_range(request: Request, file: OpenFile) -> tuple[int, int] | None:
    """Return begin and end of the range that the request asks for; None for the whole file.

    The whole file is also what a client gets that asks for several ranges, or whose `If-Range` is not this file any
    more. Begin is not below end when nothing of the range exists.
    """
    known = request.headers.get("if-range")
    if known is not None and known not in {file.etag, file.modified}:
        return None
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if match is None or match[1] == match[2] == "":
        return None
    if not match[1]:
        return max(0, file.size - int(match[2])), file.size
    end = min(int(match[2]) + 1, file.size) if match[2] else file.size
    if match[2] and int(match[2]) < int(match[1]):
        return None  # not a valid range
    return int(match[1]), end
