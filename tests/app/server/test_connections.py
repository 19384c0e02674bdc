"""A person with the cookie gets a connection, however many strangers hold theirs open."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
import websockets
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from relight_app.server.connections import KEPT_S, ConnectionLimits, bounded_connections
from relight_app.server.guard import Guard
from relight_app.server.token import cookie_value
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import log_rows, make_run
from tests.event_loop import run_async
from tests.patience import stretch

TOKEN = "token-for-tests"
_KNOWN = f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
_UNKNOWN = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def _serve(limits: ConnectionLimits, *, seconds: float = 0.0) -> Iterator[int]:
    """Serve a guarded app on the yielded port; each admitted request takes so many seconds."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                await send({"type": "websocket.send", "text": "heard"})
            return
        await asyncio.sleep(seconds)
        await PlainTextResponse("admitted")(scope, receive, send)

    config = uvicorn.Config(
        Guard(app, token=TOKEN),
        http=bounded_connections(limits),
        timeout_keep_alive=KEPT_S,
        ws="websockets-sansio",
        lifespan="off",
        log_level="error",
        access_log=False,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


def _open(port: int, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(sent)
    return connection


def _is_open(connection: socket.socket) -> bool:
    """Return whether the server has neither sent anything nor closed the connection."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        connection.settimeout(20)


def _answer(connection: socket.socket) -> bytes:
    """Return the first line of the response, after the whole response has come."""
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith((b"admitted", b"TOKEN`.\n")):
        more = connection.recv(4096)
        if not more:
            raise ConnectionResetError
        received += more
    return received.partition(b"\r\n")[0]


@pytest.mark.parametrize("begin", [b"", _UNKNOWN, _KNOWN], ids=["new", "after a 401", "after a response"])
def test_a_head_that_drips_is_cut_off_in_time(begin: bytes) -> None:
    with _serve(ConnectionLimits(most=50, most_strangers=50, head_s=0.5)) as port, _open(port, begin) as connection:
        if begin:
            _answer(connection)
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            for letter in b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000:
                connection.sendall(bytes([letter]))
                if not _is_open(connection):
                    raise ConnectionResetError
                time.sleep(0.01)
        assert 0.4 < time.monotonic() - began < stretch(3)


def test_the_body_of_a_refused_request_cannot_drip_either() -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nContent-Length: 100000\r\n\r\n"
    with _serve(ConnectionLimits(most=50, most_strangers=50, head_s=0.5)) as port, _open(port, head) as connection:
        assert b"401" in _answer(connection)
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - began < stretch(10):
                connection.sendall(b"x")
                if not _is_open(connection):
                    raise ConnectionResetError
                time.sleep(0.01)


def test_a_response_may_take_longer_than_a_head() -> None:
    limits = ConnectionLimits(most=50, most_strangers=50, head_s=0.2)
    with _serve(limits, seconds=0.6) as port, _open(port, _KNOWN) as connection:
        assert b"200" in _answer(connection)


def test_between_requests_a_person_keeps_the_connection_and_a_stranger_does_not() -> None:
    limits = ConnectionLimits(most=50, most_strangers=50, head_s=0.3)
    with _serve(limits) as port, _open(port, _KNOWN) as known, _open(port, _UNKNOWN) as unknown:
        assert b"200" in _answer(known) and b"401" in _answer(unknown)
        deadline = time.monotonic() + stretch(5)
        while _is_open(unknown):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        known.sendall(_KNOWN)
        assert b"200" in _answer(known)


def test_a_web_socket_may_be_silent_for_as_long_as_it_likes() -> None:
    async def listen(port: int) -> list[str | bytes]:
        cookie = {"Cookie": f"relight-{port}={cookie_value(TOKEN)}"}
        site = websockets.Origin(f"http://127.0.0.1:{port}")
        async with websockets.connect(f"ws://127.0.0.1:{port}/", origin=site, additional_headers=cookie) as connection:
            heard = [await connection.recv()]  # of the connection itself
            await asyncio.sleep(0.6)
            await connection.send("still here")
            return [*heard, await connection.recv()]

    with _serve(ConnectionLimits(most=50, most_strangers=0, head_s=0.2)) as port:
        assert run_async(listen(port)) == ["heard", "heard"]


def test_a_new_stranger_takes_the_place_of_the_oldest_and_never_that_of_a_person() -> None:
    with (
        _serve(ConnectionLimits(most=50, most_strangers=3, head_s=20, grace_s=0)) as port,
        contextlib.ExitStack() as stack,
    ):
        known = stack.enter_context(_open(port, _KNOWN))
        assert b"200" in _answer(known)
        strangers = []
        for _ in range(10):
            strangers.append(stack.enter_context(_open(port, _UNKNOWN)))
            assert b"401" in _answer(strangers[-1])  # so the server has met it
        assert [_is_open(stranger) for stranger in strangers] == [False] * 7 + [True] * 3
        known.sendall(_KNOWN)
        assert b"200" in _answer(known)


def test_strangers_leave_first_when_all_connections_are_taken() -> None:
    with _serve(ConnectionLimits(most=5, most_strangers=3, head_s=20), seconds=0.0) as port:
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                assert b"401" in _answer(stack.enter_context(_open(port, _UNKNOWN)))
            known = [stack.enter_context(_open(port, _KNOWN)) for _ in range(4)]
            assert [b"200" in _answer(one) for one in known] == [True] * 4
        # All of them have left: their places are free again.
        deadline = time.monotonic() + stretch(5)
        while True:
            with _open(port, _KNOWN) as again, contextlib.suppress(ConnectionError):
                if b"200" in _answer(again):
                    break
            assert time.monotonic() < deadline


@contextmanager
def _few_files(count: int) -> Iterator[None]:
    """Let processes that start now open only so many files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_five_hundred_silent_connections_keep_nobody_out(tmp_path: Path, page: Path) -> None:
    layout = make_run(tmp_path, "besieged")
    with contextlib.ExitStack() as stack:
        with _few_files(400):
            dashboard = stack.enter_context(ServedDashboard(tmp_path, script=page))
        client = stack.enter_context(dashboard.client())
        stream = client.stream("GET", "/api/stream", params={"watch": f"{layout.run_id}/train"})
        lines = stack.enter_context(stream).iter_lines()
        while "event: hello" not in next(lines):
            pass

        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())

        async def besiege() -> None:
            async with websockets.connect(
                f"ws://127.0.0.1:{dashboard.port}/_stcore/stream",
                origin=websockets.Origin(dashboard.site),
                additional_headers={"Cookie": cookie},
                subprotocols=[websockets.Subprotocol("streamlit")],
            ) as socket_of_page:
                for number in range(500):
                    stack.enter_context(_open(dashboard.port, b"" if number % 2 else b"GET / HTTP/1.1\r\nHos"))
                with dashboard.client() as newcomer:
                    assert newcomer.get("/").status_code == 200
                await asyncio.wait_for(await socket_of_page.ping(), 30)

        run_async(besiege())
        log_rows(layout, [(1, {"loss": 1.0})])
        while "event: rows" not in next(lines):
            pass
        dashboard.kill()
        assert "Too many open files" not in dashboard.output


def test_many_people_who_come_at_once_all_get_in() -> None:
    limits = ConnectionLimits(most=400, most_strangers=50, head_s=30, grace_s=30)
    with _serve(limits) as port, contextlib.ExitStack() as stack:
        people = [stack.enter_context(_open(port)) for _ in range(300)]
        for one in people:
            one.sendall(_KNOWN)
        assert {_answer(one) for one in people} == {b"HTTP/1.1 200 OK"}
