"""Streamlit's configuration: set here completely, so that no config file or environment variable changes it."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from typing import Any

from relight_app.settings import Settings

APP_FOLDER = Path(__file__).resolve().parents[2]
SCRIPT = APP_FOLDER / "streamlit_app.py"
THEME = APP_FOLDER / "relight_app" / "theme" / "theme.toml"


def streamlit_options(settings: Settings) -> dict[str, Any]:
    """Return Streamlit's options by their dotted names."""
    options: dict[str, Any] = {
        "server.address": settings.host,
        "server.port": settings.port,
        "server.baseUrlPath": settings.base_path.strip("/"),
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.enableStaticServing": False,
        "server.maxUploadSize": 1,
        # Streamlit checks the Host of the WebSocket against this list; the guard has already checked everything.
        "server.allowedHosts": ["127.0.0.1", "localhost", "relight.localhost", *settings.allowed_hosts],
        "browser.gatherUsageStats": False,
        # Without it, Streamlit asks a server on the internet for this machine's address.
        "browser.serverAddress": settings.allowed_hosts[0] if settings.allowed_hosts else "127.0.0.1",
        # A full garbage collection after each rerun makes it ten times as expensive: 99 ms of CPU instead of 10 ms.
        "runner.postScriptGC": False,
        # With fast reruns, an aborted rerun continues next to the new one and finally removes what that one has drawn.
        "runner.fastReruns": False,
        # The browser caches no message: after a few fast page changes Streamlit refers to one that the browser has
        # already dropped, and the page stays empty ("Cached ForwardMsg MISS"). Our messages have 40 kB at most.
        "global.minCachedMessageSize": 1e12,
        "client.toolbarMode": "viewer",
        # The dashboard runs on the person's own machine, so show the complete traceback of a bug.
        "client.showErrorDetails": "full",
        "client.showSidebarNavigation": False,
        "global.developmentMode": False,
        "global.suppressDeprecationWarnings": True,
        "logger.level": "warning",
    }
    if THEME.is_file():
        options["theme.base"] = str(THEME)
        options["theme.fontFaces"] = read_font_faces(settings.base_path)
    return options


def read_font_faces(base_path: str) -> list[dict[str, str]]:
    """Return the theme's fonts, with the addresses that they have below `base_path`."""
    faces = tomllib.loads(THEME.read_text(encoding="utf-8"))["theme"]["fontFaces"]
    return [face | {"url": base_path + face["url"]} for face in faces]


def find_streamlit() -> Path:
    """Return the folder of Streamlit's package, without importing it."""
    found = importlib.util.find_spec("streamlit")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent
