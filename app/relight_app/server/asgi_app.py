"""The dashboard's ASGI app and its server: Streamlit and our routes, behind the guard."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from relight.errors import RelightError
from relight.runs.decoders import prepare_decoders
from relight_app.engine import current_engine
from relight_app.machine_reader import close_machine_reader, latest_machine_report
from relight_app.server.action_route import action_routes
from relight_app.server.api_route import api_routes
from relight_app.server.assets import asset_routes
from relight_app.server.board_route import board_routes
from relight_app.server.compare_route import compare_routes
from relight_app.server.configuration import SCRIPT, apply_streamlit_options
from relight_app.server.connections import ACCEPTED_AT_ONCE, KEPT_S, WAITING, bounded_connections, choose_limits
from relight_app.server.files import file_routes
from relight_app.server.guard import Guard
from relight_app.server.history_route import history_routes
from relight_app.server.hub import Hub
from relight_app.server.page_route import page_routes
from relight_app.server.part_route import part_routes
from relight_app.server.stream import stream_routes
from relight_app.settings import Settings, use_settings

if TYPE_CHECKING:
    from streamlit.web.server.starlette.starlette_app import App

_WEBSOCKET_MESSAGE_BYTES = 64 << 20
_PING_S = 20.0
_PATIENCE_S = 0.4
"""How long responses may still take after a signal before the process exits anyway."""


def build_app(settings: Settings, hub: Hub, *, script: Path = SCRIPT) -> App:
    """Build the app. Only one per process: it sets the process-wide `settings` and Streamlit's configuration."""
    prepare_decoders()
    use_settings(settings)
    apply_streamlit_options(settings)
    import streamlit

    @asynccontextmanager
    async def lifespan(_app: App) -> AsyncIterator[dict[str, Any]]:
        hub.start()
        latest_machine_report()  # begins to remember the load
        threading.Thread(target=_list_runs, name="relight-list", daemon=True).start()
        try:
            yield {}
        finally:
            hub.stop()
            close_machine_reader()

    return streamlit.App(
        script,
        lifespan=lifespan,
        routes=_below(
            settings.base_path,
            *(page_routes() if script == SCRIPT else ()),
            *part_routes(),
            *action_routes(),
            *api_routes(),
            *stream_routes(hub),
            *history_routes(),
            *board_routes(),
            *compare_routes(),
            *file_routes(),
            *asset_routes(),
            *_nothing_else(),
        ),
        middleware=[
            Middleware(
                Guard,
                token=settings.token,
                hosts=_hosts(settings),
                base_path=settings.base_path,
                read_only=settings.read_only,
            )
        ],
    )


def serve(
    settings: Settings,
    listener: socket.socket,
    *,
    script: Path = SCRIPT,
    on_started: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then exit this process within a second, even with open connections."""
    use_settings(settings)
    hub = Hub(current_engine())
    app = build_app(settings, hub, script=script)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
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
    _Server(config, on_started=on_started, on_stop=hub.stop).run(sockets=[listener])
    _leave()  # skip the interpreter's shutdown: it takes half a second with everything that is imported


def _list_runs() -> None:
    """Read the list of runs before the first browser asks for it."""
    with suppress(RelightError):
        current_engine().list_runs()


def _hosts(settings: Settings) -> tuple[str, ...]:
    """Return the host names of the dashboard besides the local ones."""
    everywhere = settings.host in {"0.0.0.0", "::", ""}
    return settings.allowed_hosts if everywhere else (*settings.allowed_hosts, settings.host)


def _below(base_path: str, *routes: Route) -> list[Route]:
    """Return these routes with addresses that begin with `base_path`."""
    return [Route(base_path + route.path, route.endpoint, methods=list(route.methods or ())) for route in routes]


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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            _leave()
        self.should_exit = True
        self._on_stop()
        patience = threading.Timer(_PATIENCE_S, _leave)
        patience.daemon = True
        patience.start()


def _leave() -> None:
    """Exit without waiting: the processes that own files that matter write them durably."""
    sys.stdout.flush()
    os._exit(0)
