"""How Streamlit itself is configured; nothing of it is left to files or environment that happen to be around."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relight_app.server.settings import Settings

APP_FOLDER = Path(__file__).resolve().parents[2]
SCRIPT = APP_FOLDER / "streamlit_app.py"
THEME = APP_FOLDER / "relight_app" / "theme" / "theme.toml"


def streamlit_options(settings: Settings) -> dict[str, Any]:
    """Streamlit's options by their dotted names."""
    options: dict[str, Any] = {
        "server.address": settings.host,
        "server.port": settings.port,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.enableStaticServing": False,
        "server.maxUploadSize": 1,
        # Streamlit judges the web socket's Host by this list; the guard has judged everything before.
        "server.allowedHosts": ["127.0.0.1", "localhost", *settings.allowed_hosts],
        "browser.gatherUsageStats": False,
        # Named, or Streamlit asks a server on the internet what this machine's address is.
        "browser.serverAddress": settings.allowed_hosts[0] if settings.allowed_hosts else "127.0.0.1",
        # A full garbage collection after each rerun is nine tenths of its cost: 99 ms of CPU against 10 (measured).
        "runner.postScriptGC": False,
        # Or a rerun that was interrupted goes on beside the next one, and at its end takes away what that has drawn:
        # a part that redraws itself every second then stands still for good (1 of 28 exports under load).
        "runner.fastReruns": False,
        "client.toolbarMode": "viewer",
        # One person's own machine: a bug shows its whole traceback.
        "client.showErrorDetails": "full",
        "client.showSidebarNavigation": False,
        "global.developmentMode": False,
        "global.suppressDeprecationWarnings": True,
        "logger.level": "warning",
    }
    if THEME.is_file():
        options["theme.base"] = str(THEME)
    return options


def apply_streamlit_options(settings: Settings) -> None:
    """Set them; before the app is built, because Streamlit reads some while it builds."""
    from streamlit import config
    from streamlit.web.bootstrap import load_config_options

    config._main_script_path = str(SCRIPT)
    load_config_options(streamlit_options(settings))
