"""`up`: the dashboard, in place of this process."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Annotated

import typer

from relight.cli.options import MORE, RunsOption, examples
from relight.errors import RelightError

_NEEDED = ("relight_app", "plotly", "starlette", "streamlit", "tsdownsample", "uvicorn")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("up", rich_help_panel=MORE, epilog=examples("relight up", "relight up --port 8600 --no-browser"))(up)


def up(
    *,
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port to serve on; 0 takes a free one.")
    ] = 8501,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to serve on; by default this machine alone.")
    ] = "127.0.0.1",
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Another name by which browsers may call this machine.",
            show_default=False,
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", help="What opens the dashboard; else RELIGHT_TOKEN, else the last one.", show_default=False
        ),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    runs: RunsOption = None,
) -> None:
    """Serve the dashboard.

    Until Ctrl-C; the runs that were launched in it go on.
    """
    from relight.runs.catalog import runs_folder

    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RelightError(
            f"The dashboard is not installed ({', '.join(missing)} missing): pip install 'relight[dashboard]'. "
            "Everything also works from the command line: relight --help."
        )
    # -P: what lies in the current folder must not stand in for the packages that the dashboard needs.
    command = [sys.executable, "-P", "-m", "relight_app", "--port", str(port), "--host", host]
    command += ["--runs", str(runs_folder(runs))]
    for name in allowed_hosts or ():
        command += ["--allow-host", name]
    if token is not None:
        command += ["--token", token]
    if no_browser:
        command.append("--no-browser")
    os.execv(command[0], command)
