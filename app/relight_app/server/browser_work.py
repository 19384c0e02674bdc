"""Work for a browser that ends when the browser has gone: in one of few threads, or while a response is sent."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
_CLIENT_GONE = 499
"""What nginx logs for a client that has closed its connection, which therefore never gets this response."""


class BrowserGone(Exception):
    """The browser has closed the connection, so nothing needs the result any more."""


async def work_for(request: Request, work: Callable[[Callable[[], None]], T], *, limiter: anyio.CapacityLimiter) -> T:
    """Run `work(go_on)` in a thread of `limiter`, and return its result. Wait while all of them are busy.

    `go_on` raises `BrowserGone` once the browser has gone; `work` calls it wherever it may stop. Work that has not
    begun by then never does.
    """
    gone = threading.Event()

    def go_on() -> None:
        if gone.is_set():
            raise BrowserGone

    def run() -> T | BrowserGone:
        try:
            go_on()
            return work(go_on)
        except BrowserGone as error:
            return error

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()
        group.cancel_scope.cancel()

    result: T | BrowserGone = BrowserGone()
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            result = await anyio.to_thread.run_sync(run, limiter=limiter)
        except Exception as error:  # raised below, outside of the group, which would wrap it
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if isinstance(result, BrowserGone):
        raise HTTPException(_CLIENT_GONE, "The browser has gone.")
    return result


class ClosingResponse(StreamingResponse):
    """A streamed response whose generator is closed when the browser has gone, not when it is next collected."""

    def __init__(
        self, body: AsyncGenerator[bytes, None], *, status_code: int = 200, headers: Mapping[str, str], media_type: str
    ) -> None:
        super().__init__(body, status_code, headers, media_type)
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._body.aclose()
