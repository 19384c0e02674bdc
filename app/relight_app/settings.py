"""The settings that the dashboard process was started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from relight.runs.catalog import runs_folder as default_runs_folder


@dataclass(frozen=True)
class Settings:
    """The settings of one dashboard process. `allowed_hosts` are host names besides 127.0.0.1 and localhost."""

    runs_folder: Path
    host: str = "127.0.0.1"
    port: int = 8501
    token: str = field(default="", repr=False)
    allowed_hosts: tuple[str, ...] = ()
    base_path: str = ""
    """What every address of the dashboard begins with: "/relight" behind a proxy, or nothing."""
    read_only: bool = False
    """Whether this dashboard only shows: it refuses every action."""


_current: Settings | None = None


def use_settings(settings: Settings) -> None:
    """Set the settings of this process; the server does this once, before it serves."""
    global _current  # noqa: PLW0603
    _current = settings


def current_settings() -> Settings:
    """Return the settings of this process; outside the server (in an AppTest), those of the environment."""
    return _current or Settings(runs_folder=default_runs_folder(None))


def runs_folder() -> Path:
    """Return the folder whose runs this dashboard shows."""
    return current_settings().runs_folder
