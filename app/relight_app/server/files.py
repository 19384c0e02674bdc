"""Routes for downloads from a run: exported weights, logs, metrics as CSV. Streamed, never held in memory.

They send only regular files in the run's own folder, without following links: exports by name, logs by attempt number.
Weights support ranges, ETag and HEAD, so a broken download can continue where it stopped. `Content-Encoding: identity`
stops Streamlit's gzip middleware: compressing weights takes minutes, gains nothing, and hides the length from the
progress bar. Downloads have threads of their own, so that nothing else can hold them up.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relight.regular_file import open_below
from relight.runs.layout import RunLayout
from relight_app.server.browser_work import ClosingResponse
from relight_app.server.csv_stream import stream_csv
from relight_app.server.file_response import OpenFile, send_file
from relight_app.settings import runs_folder

_MEDIA_TYPES = {".json": "application/json", ".txt": "text/plain; charset=utf-8"}
_READERS = 8
"""Reading a part of a file from a disk that hangs may take all of these threads, but no other ones."""
_CSV_AT_ONCE = 4
_ATTEMPT_DIGITS = 18


def file_routes() -> list[Route]:
    """Return the routes; `relight_app.urls` builds their addresses."""
    readers, csv_turns = anyio.CapacityLimiter(_READERS), asyncio.Semaphore(_CSV_AT_ONCE)

    async def send_export(request: Request) -> Response:
        return await _send_export(request, readers)

    async def send_log(request: Request) -> Response:
        return await _send_log(request, readers)

    async def send_csv(request: Request) -> Response:
        return await _send_csv(request, csv_turns)

    return [
        Route("/files/{run}/exports/{name}", send_export, methods=["GET", "HEAD"]),
        Route("/files/{run}/log.txt", send_log, methods=["GET", "HEAD"]),
        Route("/files/{run}/metrics.csv", send_csv, methods=["GET", "HEAD"]),
    ]


def find_layout(run: str) -> RunLayout:
    """Find the run with that id in this dashboard's folder; respond 404 to anything that is not one."""
    if not run or run.startswith(".") or "/" in run or "\\" in run or "\0" in run:
        raise HTTPException(404, "Run not found.")
    layout = RunLayout(runs_folder() / run)
    if not layout.is_run():
        raise HTTPException(404, "Run not found.")
    return layout


async def _send_export(request: Request, readers: anyio.CapacityLimiter) -> Response:
    layout = find_layout(request.path_params["run"])
    name = request.path_params["name"]
    file = _open(layout, layout.exports / _plain(name))
    headers = {"ETag": file.etag, "Content-Encoding": "identity", "Cache-Control": "private, no-cache"}
    if file.etag in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = _attachment(name if name.startswith(layout.run_id) else f"{layout.run_id}-{name}")
    media_type = _MEDIA_TYPES.get(Path(name).suffix, "application/octet-stream")
    return send_file(file, request, headers=headers, media_type=media_type, readers=readers)


async def _send_log(request: Request, readers: anyio.CapacityLimiter) -> Response:
    layout = find_layout(request.path_params["run"])
    asked, rank = request.query_params.get("attempt"), request.query_params.get("rank", "0")
    for name, text in (("attempt", asked), ("rank", rank)):
        if text is not None and not (text.isascii() and text.isdigit() and len(text) <= _ATTEMPT_DIGITS):
            raise HTTPException(404, f"`{name}` must be a number.")
    number = int(asked) if asked is not None else layout.latest_attempt()
    # A running trainer appends in the meantime. Send the log as it was at the time of the request.
    file = _open(layout, layout.of_rank(int(rank)).attempt(number).log)
    headers = {"Content-Encoding": "identity", "Cache-Control": "private, no-store"}
    if request.query_params.get("download"):
        headers["Content-Disposition"] = _attachment(f"{layout.run_id}-attempt-{number}-log.txt")
    return send_file(file, request, headers=headers, media_type="text/plain", readers=readers, ranges=False)


async def _send_csv(request: Request, turns: asyncio.Semaphore) -> Response:
    layout = find_layout(request.path_params["run"])
    stream = request.query_params.get("stream")
    ghosts = request.query_params.get("ghosts", "") not in {"", "0"}
    name = f"{layout.run_id}-{stream.replace('/', '-') if stream else 'metrics'}.csv"
    headers = {"Content-Disposition": _attachment(name), "Cache-Control": "private, no-store"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type="text/csv")
    body = stream_csv(layout.metrics, streams=[stream] if stream else None, ghosts=ghosts, turns=turns)
    return ClosingResponse(body, headers=headers, media_type="text/csv")


def _plain(name: str) -> str:
    """Return `name`, if it can be the name of a file in a folder; respond 404 to paths."""
    if not name or name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
        raise HTTPException(404, "File not found.")
    return name


def _open(layout: RunLayout, path: Path) -> OpenFile:
    """Open a file of the run; respond 404 to anything but a regular file to which no link leads."""
    try:
        return OpenFile(open_below(layout.folder, path))
    except (OSError, ValueError):
        raise HTTPException(404, "File not found.") from None


def _attachment(name: str) -> str:
    quoted = quote(name)
    return f'attachment; filename="{name}"' if quoted == name else f"attachment; filename*=utf-8''{quoted}"
