"""Routes for downloads from a run: exported weights, logs, metrics as CSV. Streamed, never held in memory.

They send only regular files in the run's own folder: exports by name, logs by attempt number. Weights support ranges,
ETag and HEAD, so a broken download can continue where it stopped. `Content-Encoding: identity` stops Streamlit's gzip
middleware: compressing weights takes minutes, gains nothing, and hides the length from the progress bar.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from relight.regular_file import open_regular
from relight.runs.layout import RunLayout
from relight_app.server.csv_stream import stream_csv
from relight_app.settings import runs_folder

_MEDIA_TYPES = {".json": "application/json", ".txt": "text/plain; charset=utf-8"}
_CHUNK_BYTES = 1 << 20


class _Download(FileResponse):
    chunk_size = _CHUNK_BYTES


def file_routes() -> list[Route]:
    """Return the routes; `relight_app.urls` builds their addresses."""
    return [
        Route("/files/{run}/exports/{name}", _send_export, methods=["GET", "HEAD"]),
        Route("/files/{run}/log.txt", _send_log, methods=["GET", "HEAD"]),
        Route("/files/{run}/metrics.csv", _send_csv, methods=["GET", "HEAD"]),
    ]


def find_layout(run: str) -> RunLayout:
    """Find the run with that id in this dashboard's folder; respond 404 to anything that is not one."""
    if not run or run.startswith(".") or "/" in run or "\\" in run or "\0" in run:
        raise HTTPException(404, "Run not found.")
    layout = RunLayout(runs_folder() / run)
    if not layout.is_run():
        raise HTTPException(404, "Run not found.")
    return layout


async def _send_export(request: Request) -> Response:
    layout = find_layout(request.path_params["run"])
    name = request.path_params["name"]
    path, status = _regular_file(layout.exports, name)
    headers = {
        "ETag": f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"',
        "Content-Encoding": "identity",
        "Cache-Control": "private, no-cache",
    }
    if headers["ETag"] in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return _Download(
        path,
        filename=name if name.startswith(layout.run_id) else f"{layout.run_id}-{name}",
        media_type=_MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
        headers=headers,
        stat_result=status,
    )


async def _send_log(request: Request) -> Response:
    layout = find_layout(request.path_params["run"])
    asked = request.query_params.get("attempt")
    if asked is not None and not (asked.isascii() and asked.isdigit()):
        raise HTTPException(404, "`attempt` must be a number.")
    number = int(asked) if asked is not None else layout.latest_attempt()
    log = layout.attempt(number).log
    path, status = _regular_file(log.parent, log.name)
    # A running trainer appends in the meantime. Send the log as it was at the time of the request.
    headers = {
        "Content-Length": str(status.st_size),
        "Content-Encoding": "identity",
        "Cache-Control": "private, no-store",
        "Last-Modified": formatdate(status.st_mtime, usegmt=True),
    }
    if request.query_params.get("download"):
        headers["Content-Disposition"] = _attachment(f"{layout.run_id}-attempt-{number}-log.txt")
    if request.method == "HEAD":
        return Response(headers=headers, media_type="text/plain")
    return StreamingResponse(_read_exactly(path, status.st_size), headers=headers, media_type="text/plain")


async def _send_csv(request: Request) -> Response:
    layout = find_layout(request.path_params["run"])
    stream = request.query_params.get("stream")
    ghosts = request.query_params.get("ghosts", "") not in {"", "0"}
    name = f"{layout.run_id}-{stream.replace('/', '-') if stream else 'metrics'}.csv"
    headers = {"Content-Disposition": _attachment(name), "Cache-Control": "private, no-store"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type="text/csv")
    body = stream_csv(layout.metrics, streams=[stream] if stream else None, ghosts=ghosts)
    return StreamingResponse(body, headers=headers, media_type="text/csv")


def _regular_file(folder: Path, name: str) -> tuple[Path, os.stat_result]:
    """Find a regular file directly in `folder`; respond 404 for links, folders and paths."""
    if not name or name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
        raise HTTPException(404, "File not found.")
    path = folder / name
    try:
        status = path.lstat()
    except (OSError, ValueError):
        raise HTTPException(404, "File not found.") from None
    if not stat.S_ISREG(status.st_mode):
        raise HTTPException(404, "File not found.")
    return path, status


async def _read_exactly(path: Path, size: int) -> AsyncIterator[bytes]:
    """Yield the first `size` bytes of a file that may grow, padded if it shrinks: the length has been sent already."""
    async with await anyio.open_file(open_regular(path), "rb") as file:
        while size > 0:
            chunk = await file.read(min(size, _CHUNK_BYTES))
            if not chunk:
                chunk = b"\n" * min(size, _CHUNK_BYTES)
            size -= len(chunk)
            yield chunk


def _attachment(name: str) -> str:
    return f"attachment; filename*=utf-8''{quote(name)}"
