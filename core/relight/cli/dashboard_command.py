"""`up`: the dashboard, in place of this process."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import sys
from typing import Annotated

import typer

from relight.cli.options import MORE, RunsOption, examples
from relight.errors import RelightError

_NEEDED = ("relight_app", "streamlit", "plotly", "starlette", "uvicorn", "tsdownsample")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("up", rich_help_panel=MORE, epilog=examples("relight up", "relight up --port 8600 --no-browser"))(up)


def up(
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="Port to serve on.")] = 8501,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to serve on; by default this machine alone.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    runs: RunsOption = None,
) -> None:
    """Serve the dashboard.

    Until Ctrl-C; runs that it launched go on without it.
    """
    from relight.runs.catalog import runs_folder

    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RelightError(
            f"The dashboard is not installed ({', '.join(missing)} missing): pip install 'relight[dashboard]'. "
            "Everything also works from the command line, see `relight --help`."
        )
    _check_port(host, port)
    command = [sys.executable, "-m", "relight_app", "--port", str(port), "--host", host]
    command += ["--runs", str(runs_folder(runs))]
    if no_browser:
        command.append("--no-browser")
    sys.stdout.flush()
    os.execv(command[0], command)


def _check_port(host: str, port: int) -> None:
    """Raise one sentence when the server could not listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise RelightError(
            f"'{host}' is no address of this machine: {error.strerror}. Leave --host out, or use 0.0.0.0."
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            other = port + 1 if port < 65535 else 8600
            raise RelightError(
                f"Port {port} is taken by another server. Choose another: relight up --port {other}"
            ) from None
        if error.errno == errno.EACCES:
            raise RelightError(
                f"Port {port} may not be used by you: take one above 1023, such as --port 8501."
            ) from None
        raise RelightError(f"The dashboard cannot listen on {host}, port {port}: {error.strerror}.") from None
