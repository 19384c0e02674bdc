"""Streamlit as a part of our app: imported while the server already answers, because that takes longer than all else.

A page is shown and works without it (`page_route.py`), so only Streamlit's own requests wait: its scripts, its
WebSocket, the health address.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from relight.errors import RelightError
from relight_app.server.configuration import SCRIPT, streamlit_options
from relight_app.settings import Settings

if TYPE_CHECKING:
    from streamlit.web.server.starlette.starlette_app import App


class LateStreamlit:
    """An ASGI app whose requests wait for Streamlit. Only one per process: Streamlit's configuration is global."""

    def __init__(self, settings: Settings, script: Path) -> None:
        self._settings = settings
        self.script = script
        self._app: App | None = None
        self._settled = anyio.Event()
        self.problem: RelightError | None = None
        """Why Streamlit could not be started."""

    async def run(self, *, on_failure: Callable[[], None]) -> None:
        """Start Streamlit, and keep it until this is canceled; without it, set `problem` and call `on_failure`."""
        try:
            app, lifespan = await anyio.to_thread.run_sync(self._load, abandon_on_cancel=True)
            async with lifespan:
                self._app = app
                self._settled.set()
                await anyio.sleep_forever()
        except Exception as error:  # whatever an incomplete installation raises
            self.problem = RelightError(
                f"Streamlit, which draws the dashboard's frame, cannot be started ({type(error).__name__}: {error}). "
                "Install the dashboard again: pip install --force-reinstall 'relight[dashboard]'."
            )
            self.problem.__cause__ = error
            self._settled.set()
            on_failure()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to Streamlit once it has started."""
        await self._settled.wait()
        if self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1011})
        else:
            await PlainTextResponse("Streamlit cannot be started.\n", status_code=503)(scope, receive, send)

    def _load(self) -> tuple[App, AbstractAsyncContextManager[Any]]:
        import streamlit
        from streamlit import config
        from streamlit.web.bootstrap import load_config_options

        config._main_script_path = str(SCRIPT)
        load_config_options(streamlit_options(self._settings))  # Streamlit reads some of them while it builds its app
        app = streamlit.App(self.script)
        return app, app.lifespan()(app)
