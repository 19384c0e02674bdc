"""`python -m relight_app`: serves the dashboard on this machine."""

from __future__ import annotations

import argparse
import errno
import os
import re
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from relight.errors import RelightError, UsageError
from relight.runs.catalog import RUNS_VARIABLE, runs_folder
from relight.runs.trash import sweep_in_background
from relight.supervision.interrupted_runs import resume_interrupted_runs
from relight_app.server.token import choose_token, read_token_file
from relight_app.settings import Settings

_BASE_PATH = re.compile(r"(/[A-Za-z0-9_-]+)+")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the options and serve. Return the exit code: 0 ended by a signal, 1 an error, 2 wrong usage."""
    options = _parse(arguments)
    try:
        _serve(options)
    except RelightError as error:
        sys.stderr.write(f"relight: {error}\n")
        return error.exit_code
    return 0


def _serve(options: argparse.Namespace) -> None:
    folder = _prepare_runs_folder(runs_folder(options.runs), writable=not options.read_only)
    token = read_token_file(options.token_file) if options.token_file else choose_token(options.token)
    listener = _listen(options.host, options.port)
    settings = Settings(
        runs_folder=folder,
        host=options.host,
        port=listener.getsockname()[1],
        token=token,
        allowed_hosts=tuple(options.allow_host),
        base_path=options.base_path,
        read_only=options.read_only,
    )
    from relight_app.server.asgi_app import serve

    def begin() -> None:
        _announce(settings, open_browser=options.browser)
        if not options.read_only:
            sweep_in_background(folder)
        if options.resume_interrupted:
            threading.Thread(target=_resume_interrupted, args=(folder,), name="relight-resume", daemon=True).start()

    serve(settings, listener, on_started=begin)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="relight up", description="Serve the dashboard.", allow_abbrev=False)
    parser.add_argument("--port", type=_port, default=8501, help="port to listen on (default: 8501; 0: any free port)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument(
        "--runs", type=Path, default=None, help=f"folder with the runs (default: {RUNS_VARIABLE}, else ./runs)"
    )
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--token", default=None, help="token that opens the dashboard (default: RELIGHT_TOKEN, else the last one)"
    )
    token.add_argument(
        "--token-file", type=Path, default=None, metavar="PATH", help="private file with the token that opens it"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another host name that browsers may use for this machine; repeatable",
    )
    parser.add_argument(
        "--base-path", type=_base_path, default="", metavar="PATH", help="what all addresses begin with: /relight"
    )
    parser.add_argument(
        "--read-only", action="store_true", help="only show: refuse everything that would start, stop or change a run"
    )
    parser.add_argument(
        "--resume-interrupted", action="store_true", help="resume every run that a reboot or a kill interrupted"
    )
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="do not open a browser")
    options = parser.parse_args(arguments)
    if options.read_only and options.resume_interrupted:
        parser.error("--read-only resumes nothing: leave out one of --read-only and --resume-interrupted")
    return options


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port. Use 1 to 65535, or 0 for any free port.")
    return int(text)


def _base_path(text: str) -> str:
    path = text.rstrip("/")
    if path and not _BASE_PATH.fullmatch(path):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the beginning of an address. Use letters, digits, - and _ after slashes: /relight"
        )
    return path


def _prepare_runs_folder(folder: Path, *, writable: bool) -> Path:
    """Create the runs folder if it is missing; raise `RelightError` if it has to be `writable` and is not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if writable:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".relight-"):
                pass
    except OSError as error:
        raise RelightError(
            f"The runs folder {str(folder)!r} is not writable: {error.strerror or error}. "
            f"Choose another one with --runs or {RUNS_VARIABLE}, or make it writable."
        ) from error
    return folder


def _listen(host: str, port: int) -> socket.socket:
    """Open a listening socket before anything slow is imported; raise `RelightError` if that fails."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(
            f"{host!r} is not an address of this machine. Use --host 127.0.0.1, or 0.0.0.0 in a container."
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise RelightError(_why_not(host, port, error)) from error
    listener.setblocking(False)
    return listener


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is already in use, perhaps by another Relight dashboard. "
            f"Stop that one, or choose another port: --port {port + 1 if port < 65535 else 8501}."
        )
    if error.errno == errno.EACCES:
        return f"You are not allowed to use port {port}. Choose one above 1023: --port 8501."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host!r} is not an address of this machine. Use --host 127.0.0.1, or 0.0.0.0 in a container."
    return f"Cannot listen on port {port} of {host}: {error.strerror or error}. Choose another port: --port 8502."


def _resume_interrupted(folder: Path) -> None:
    """Resume all interrupted runs and print one sentence for each."""
    for result in resume_interrupted_runs(folder):
        sys.stdout.write(f"{result.sentence}\n")
        sys.stdout.flush()


def _announce(settings: Settings, *, open_browser: bool) -> None:
    """Print the dashboard's address once it responds, and open it in a browser."""
    local = settings.host in {"0.0.0.0", "::", "127.0.0.1", "::1", "localhost"}
    host = "127.0.0.1" if local else settings.host
    address = f"http://{host}:{settings.port}{settings.base_path}/?token={settings.token}"
    sys.stdout.write(
        f"Relight dashboard: {address}\n"
        f"Runs folder: {settings.runs_folder}. Press Ctrl-C to stop the dashboard; your trainings continue.\n"
    )
    sys.stdout.flush()
    if open_browser and _has_screen():
        threading.Thread(target=webbrowser.open, args=(address,), name="relight-browser", daemon=True).start()


def _has_screen() -> bool:
    """Return whether there is a window system: without one, `webbrowser` would open a text browser in this terminal."""
    return sys.platform in {"darwin", "win32"} or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )


if __name__ == "__main__":
    sys.exit(main())
