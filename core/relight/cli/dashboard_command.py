"""`up`: replace this process with the dashboard's server."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from relight.cli.options import MORE, RunsOption, examples
from relight.errors import RelightError

_NEEDED = ("relight_app", "starlette", "streamlit", "tsdownsample", "uvicorn")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("up", rich_help_panel=MORE, epilog=examples("relight up", "relight up --port 8600 --no-browser"))(up)


def up(
    *,
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port to serve on; 0 picks a free one.")
    ] = 8501,
    host: Annotated[
        str,
        typer.Option("--host", metavar="ADDRESS", help="Address to listen on. The default serves this machine only."),
    ] = "127.0.0.1",
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Another host name that browsers may use for this machine; may be repeated.",
            show_default=False,
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            help="Token that opens the dashboard. Default: $RELIGHT_TOKEN, else the last one used.",
            show_default=False,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="PATH",
            help="File with the token, readable only by you. Other users of this machine can see the value of --token.",
            show_default=False,
        ),
    ] = None,
    base_path: Annotated[
        str | None,
        typer.Option(
            "--base-path",
            metavar="PATH",
            help="What all addresses begin with, for example /relight behind a proxy.",
            show_default=False,
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Only show: refuse to start, stop or change a run.")
    ] = False,
    resume_interrupted: Annotated[
        bool,
        typer.Option("--resume-interrupted", help="First resume every interrupted run, as `resume --all-interrupted`."),
    ] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser window.")] = False,
    runs: RunsOption = None,
) -> None:
    """Serve the dashboard.

    Serves until you press Ctrl-C. Runs that were launched from it continue.
    """
    from relight.runs.catalog import runs_folder

    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RelightError(
            f"The dashboard is not installed ({', '.join(missing)} missing). Install it with: "
            "pip install 'relight[dashboard]'. Everything also works from the command line: relight --help."
        )
    # -P: a module in the current folder must not shadow the packages that the dashboard needs.
    command = [sys.executable, "-P", "-m", "relight_app", "--port", str(port), "--host", host]
    command += ["--runs", str(runs_folder(runs))]
    for name in allowed_hosts or ():
        command += ["--allow-host", name]
    if token is not None:
        command += ["--token", token]
    if token_file is not None:
        command += ["--token-file", str(token_file)]
    if base_path is not None:
        command += ["--base-path", base_path]
    if read_only:
        command.append("--read-only")
    if resume_interrupted:
        command.append("--resume-interrupted")
    if no_browser:
        command.append("--no-browser")
    os.execv(command[0], command)
