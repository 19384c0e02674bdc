"""What the dashboard process was started with, readable from every page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from relight.runs.catalog import runs_folder as default_runs_folder


@dataclass(frozen=True)
class Settings:
    """One dashboard process. `token` opens it; `allowed_hosts` are names beyond 127.0.0.1 and localhost."""

    runs_folder: Path
    host: str = "127.0.0.1"
    port: int = 8501
    token: str = field(default="", repr=False)
    allowed_hosts: tuple[str, ...] = ()


_current: Settings | None = None


def use_settings(settings: Settings) -> None:
    """Make `settings` those of this process; the server does this once, before it serves."""
    global _current  # noqa: PLW0603
    _current = settings


def current_settings() -> Settings:
    """The settings of this process; outside of the server (AppTest, say) those that the environment gives."""
    return _current or Settings(runs_folder=default_runs_folder(None))


def runs_folder() -> Path:
    """The folder whose runs this dashboard shows."""
    return current_settings().runs_folder
