"""Starts a real dashboard process for tests, on a free port, and queries it over HTTP."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import httpx

TOKEN = "token-for-tests"
_ADDRESS = re.compile(r"http://([0-9.]+):(\d+)(\S*)/\?token=(\S+)")
_START_LIMIT_S = 60.0

# Serves a test's page instead of the real one.
_WITH_SCRIPT = """
import sys
from pathlib import Path
import relight_app.server.configuration as configuration
import relight_app.server.asgi_app as application
application.serve.__kwdefaults__["script"] = Path(sys.argv.pop(1))
from relight_app.__main__ import main
sys.exit(main())
"""


class ServedDashboard:
    """A `python -m relight_app` process, as a context manager that kills it at the end."""

    def __init__(
        self,
        runs: Path,
        *,
        script: Path | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        token: str | None = TOKEN,
        port: int = 0,
    ) -> None:
        program = ["-m", "relight_app"] if script is None else ["-c", _WITH_SCRIPT, str(script)]
        given = ["--token", token] if token is not None else []
        command = [
            sys.executable,
            *program,
            "--port",
            str(port),
            "--no-browser",
            "--runs",
            str(runs),
            *given,
            *arguments,
        ]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RELIGHT_", "STREAMLIT_"))}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            env=clean | {"RELIGHT_RUNS": str(runs)} | dict(environment or {}),
        )
        self.output = ""
        self.token = token or ""
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> ServedDashboard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def site(self) -> str:
        """The address without the token."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def link(self) -> str:
        """The link that the dashboard printed."""
        return f"{self.site}{self.base_path}/?token={self.token}"

    @contextmanager
    def client(self, *, timeout_s: float = 30.0) -> Iterator[httpx.Client]:
        """Return a client with the cookie, as a browser has after its first visit."""
        with httpx.Client(base_url=self.site, timeout=timeout_s) as client:
            assert client.get(f"{self.base_path}/", params={"token": self.token}).status_code == 303
            yield client

    def end(self, sign: signal.Signals = signal.SIGTERM, *, limit_s: float = 10.0) -> tuple[int, float]:
        """Send a signal. Return the exit code and the seconds until the exit."""
        began = time.monotonic()
        self.process.send_signal(sign)
        code = self.process.wait(limit_s)
        return code, time.monotonic() - began

    def kill(self) -> None:
        """Kill the process and read the rest of its output."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.output += self.process.stdout.read()
            self.process.stdout.close()

    def _wait_until_it_answers(self) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline:
            readable, _, _ = select.select([self.process.stdout], [], [], 0.5)
            line = self.process.stdout.readline() if readable else ""
            self.output += line
            found = _ADDRESS.search(line)
            if found:
                self.port = int(found[2])
                self.base_path = found[3]
                self.token = found[4]
                return
            if readable and not line and self.process.poll() is not None:
                break
        raise AssertionError(f"The dashboard did not start:\n{self.output}")
