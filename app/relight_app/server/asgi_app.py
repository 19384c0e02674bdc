"""The dashboard's ASGI app and its server: Streamlit and our routes, behind the guard."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from relight.errors import RelightError
from relight.runs.decoders import prepare_decoders
from relight_app.answers import restore_jobs
from relight_app.engine import current_engine
from relight_app.machine_reader import close_machine_reader, latest_machine_report
from relight_app.server.action_route import action_routes
from relight_app.server.api_route import api_routes
from relight_app.server.assets import asset_routes
from relight_app.server.board_route import board_routes
from relight_app.server.compare_route import compare_routes
from relight_app.server.configuration import SCRIPT
from relight_app.server.connections import ACCEPTED_AT_ONCE, KEPT_S, WAITING, bounded_connections, choose_limits
from relight_app.server.files import file_routes
from relight_app.server.guard import Guard
from relight_app.server.history_route import history_routes
from relight_app.server.hub import Hub
from relight_app.server.late_streamlit import LateStreamlit
from relight_app.server.page_route import page_routes
from relight_app.server.part_route import part_routes
from relight_app.server.stream import stream_routes
from relight_app.settings import Settings, use_settings

_WEBSOCKET_MESSAGE_BYTES = 64 << 20
_PING_S = 20.0
_PATIENCE_S = 0.4
"""How long responses may still take after a signal before the process exits anyway."""


def build_app(settings: Settings, hub: Hub, streamlit: LateStreamlit, *, on_failure: Callable[[], None]) -> Starlette:
    """Build the app. Only one per process: it sets the process-wide `settings`."""
    prepare_decoders()
    use_settings(settings)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        hub.start()
        latest_machine_report()  # begins to remember the load
        threading.Thread(target=_list_runs, name="relight-list", daemon=True).start()
        async with anyio.create_task_group() as group:
            group.start_soon(partial(streamlit.run, on_failure=on_failure))
            yield
            group.cancel_scope.cancel()
        hub.stop()
        close_machine_reader()

    sent_as_they_are = [*stream_routes(hub), *part_routes(), *file_routes(), *asset_routes()]
    if streamlit.script == SCRIPT:
        sent_as_they_are += page_routes()
    compressed = [*action_routes(), *api_routes(), *board_routes(), *compare_routes(), *history_routes()]
    routes = [
        *_below(settings.base_path, sent_as_they_are),
        *_below(settings.base_path, compressed, Middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)),
        *_below(settings.base_path, _nothing_else()),
        Mount("/", streamlit),
    ]
    guard = Middleware(
        Guard,
        token=settings.token,
        hosts=_hosts(settings),
        base_path=settings.base_path,
        read_only=settings.read_only,
    )
    return Starlette(routes=routes, lifespan=lifespan, middleware=[guard])


def serve(
    settings: Settings,
    listener: socket.socket,
    *,
    script: Path = SCRIPT,
    on_started: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then exit this process within a second, even with open connections.

    Raise `RelightError` if Streamlit cannot be started.
    """
    use_settings(settings)
    restore_jobs(current_engine())
    hub = Hub(current_engine())
    streamlit = LateStreamlit(settings, script)

    def give_up() -> None:
        server.end()

    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        build_app(settings, hub, streamlit, on_failure=give_up),
        http=bounded_connections(choose_limits()),
        backlog=ACCEPTED_AT_ONCE,
        timeout_keep_alive=KEPT_S,
        log_level="warning",
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=_WEBSOCKET_MESSAGE_BYTES,
        ws_ping_interval=_PING_S,
        ws_ping_timeout=_PING_S,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config, on_started=on_started, on_stop=hub.stop)
    server.run(sockets=[listener])
    if streamlit.problem is not None:
        raise streamlit.problem
    _leave()  # skip the interpreter's shutdown: it takes half a second with everything that is imported


def _list_runs() -> None:
    """Read the list of runs before the first browser asks for it."""
    with suppress(RelightError):
        current_engine().list_runs()


def _hosts(settings: Settings) -> tuple[str, ...]:
    """Return the host names of the dashboard besides the local ones."""
    everywhere = settings.host in {"0.0.0.0", "::", ""}
    return settings.allowed_hosts if everywhere else (*settings.allowed_hosts, settings.host)


def _below(base_path: str, routes: Iterable[Route], *middleware: Middleware) -> list[Route]:
    """Return these routes with addresses below `base_path`."""
    return [
        Route(base_path + route.path, route.endpoint, methods=list(route.methods or ()), middleware=middleware)
        for route in routes
    ]


def _nothing_else() -> list[Route]:
    """Respond 404 to everything else under our prefixes; Streamlit would send its page."""

    async def refuse(_request: Request) -> Response:
        return PlainTextResponse("Not found.\n", status_code=404)

    return [Route(f"/{prefix}/{{rest:path}}", refuse) for prefix in ("api", "parts", "actions", "files", "assets")]


class _Server(uvicorn.Server):
    """A server that ends open streams at a signal: uvicorn alone would wait for them forever."""

    def __init__(self, config: uvicorn.Config, *, on_started: Callable[[], None], on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        for listener in sockets or ():
            listener.listen(WAITING)
        if self.started:
            self._on_started()

    def end(self) -> None:
        """Begin to shut down; only on the event loop."""
        self.should_exit = True
        self._on_stop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            _leave()
        self.end()
        patience = threading.Timer(_PATIENCE_S, _leave)
        patience.daemon = True
        patience.start()


def _leave() -> None:
    """Exit without waiting: the processes that own files that matter write them durably."""
    sys.stdout.flush()
    os._exit(0)
