"""Work for a browser is done by few threads, and never for a browser that has gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable

import anyio
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from relight_app.server.browser_work import ClosingResponse, work_for
from tests.event_loop import run_async


class _Browser:
    """The browser behind a request."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()
        self._asked = False
        self.request = Request({"type": "http", "method": "GET", "headers": []}, self.receive)

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.leaves.wait()
        return {"type": "http.disconnect"}


def test_the_result_or_the_error_of_the_work_comes_back() -> None:
    async def check() -> None:
        limiter = anyio.CapacityLimiter(1)
        assert await work_for(_Browser().request, lambda go_on: 7, limiter=limiter) == 7
        with pytest.raises(ZeroDivisionError):
            await work_for(_Browser().request, lambda go_on: 1 // 0, limiter=limiter)
        with pytest.raises(HTTPException, match="nothing"):
            await work_for(_Browser().request, _refuse, limiter=limiter)
        assert limiter.borrowed_tokens == 0

    run_async(check())


def _refuse(_go_on: Callable[[], None]) -> None:
    raise HTTPException(404, "nothing")


def test_waiting_work_of_a_browser_that_has_gone_never_begins() -> None:
    async def check() -> None:
        limiter, free, begun = anyio.CapacityLimiter(1), threading.Event(), []

        def block(_go_on: Callable[[], None]) -> str:
            assert free.wait(20)
            return "done"

        first = asyncio.create_task(work_for(_Browser().request, block, limiter=limiter))
        while limiter.borrowed_tokens == 0:
            await asyncio.sleep(0)
        browsers = [_Browser() for _ in range(50)]
        waiting = [
            asyncio.create_task(work_for(browser.request, lambda go_on: begun.append(1), limiter=limiter))
            for browser in browsers
        ]
        last = asyncio.create_task(work_for(_Browser().request, lambda go_on: "last", limiter=limiter))
        for browser in browsers:
            browser.leaves.set()
        gone = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(one) for one in gone} == {HTTPException}
        free.set()
        assert (await first, await last, begun) == ("done", "last", [])

    run_async(check())


def test_work_that_has_begun_ends_where_it_may_when_the_browser_goes() -> None:
    async def check() -> int:
        limiter, browser, rounds = anyio.CapacityLimiter(1), _Browser(), []
        loop = asyncio.get_running_loop()

        def work(go_on: Callable[[], None]) -> None:
            for number in range(1_000_000):
                rounds.append(number)
                if number == 10:
                    loop.call_soon_threadsafe(browser.leaves.set)
                if number >= 10:
                    threading.Event().wait(0.001)
                go_on()

        with pytest.raises(HTTPException):
            await work_for(browser.request, work, limiter=limiter)
        assert limiter.borrowed_tokens == 0
        return len(rounds)

    assert 10 < run_async(check()) < 20_000


def test_a_response_is_closed_at_once_when_the_browser_goes_while_it_takes_nothing() -> None:
    closed: list[str] = []

    async def body() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x"
        finally:
            closed.append("closed")

    async def check() -> list[str]:
        browser, sent = _Browser(), 0

        async def send(_message: Message) -> None:
            nonlocal sent
            sent += 1
            if sent == 3:
                browser.leaves.set()
                await asyncio.Event().wait()  # the connection is full

        response = ClosingResponse(body(), headers={}, media_type="text/plain")
        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, browser.receive, send)
        return list(closed)

    assert run_async(check()) == ["closed"]
