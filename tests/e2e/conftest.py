"""A real dashboard on a port of its own, a real headless Chromium, and one empty runs folder for each test."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

START_S = 90.0
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


@dataclass(frozen=True)
class Dashboard:
    """A dashboard that answers, and the command line on the same runs folder."""

    url: str
    """Address with the token, as it is printed."""
    runs: Path
    process: subprocess.Popen[str]

    def relight(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `relight` command on this runs folder."""
        result = subprocess.run(
            [sys.executable, "-m", "relight.cli", *arguments, "--runs", str(self.runs)],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert not check or result.returncode == 0, result.stderr
        return result

    def show(self, run: str) -> dict[str, Any]:
        """What `relight show RUN --json` prints."""
        shown: dict[str, Any] = json.loads(self.relight("show", run, "--json").stdout)
        return shown

    def only_run(self) -> str:
        """The id of the one run that there is."""
        (run,) = json.loads(self.relight("list", "--json").stdout)
        return str(run["run"])


def wait_until(condition: Callable[[], Any], *, timeout_s: float, what: str) -> Any:
    """Poll until `condition` gives something true, and return it; fail with `what` when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.05)


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[Dashboard]:
    """A dashboard with an empty runs folder; afterwards nothing that it started is left."""
    runs = tmp_path / "runs"
    log = tmp_path / "dashboard.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "relight_app", "--port", "0", "--no-browser", "--runs", str(runs)],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state")},
        )
    try:
        address = wait_until(
            lambda: re.search(r"http://\S+", log.read_text()) or process.poll() is not None,
            timeout_s=START_S,
            what="the dashboard printed its address",
        )
        assert isinstance(address, re.Match), log.read_text()
        yield Dashboard(address.group(), runs, process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            _end_runs(runs)


def _end_runs(runs: Path) -> None:
    """End whatever still trains in `runs`: only processes that name one of its folders."""
    for process in psutil.process_iter(["cmdline"]):
        if any(part.startswith(f"{runs}/") for part in process.info["cmdline"] or ()):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Chromium as `make test` found it (RELIGHT_CHROMIUM), else the first on the PATH."""
    path = os.environ.get("RELIGHT_CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.skip("no Chromium: run `make test`, which installs it, or set RELIGHT_CHROMIUM")
    started = playwright.chromium.launch(executable_path=path, args=_FLAGS)
    yield started
    started.close()


@pytest.fixture
def page(browser: Browser, dashboard: Dashboard) -> Iterator[Page]:
    """A page that has opened the dashboard; nothing it asks for may leave this machine, and no script may fail."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    context.set_default_timeout(60_000)
    opened = context.new_page()
    away: list[str] = []
    failures: list[str] = []
    opened.on("request", lambda request: away.append(request.url) if leaves_the_machine(request.url) else None)
    opened.on("pageerror", lambda error: failures.append(str(error)))
    opened.goto(dashboard.url)
    yield opened
    context.close()
    assert away == []
    assert failures == []


def leaves_the_machine(url: str) -> bool:
    """Whether a request for `url` goes anywhere but to this machine."""
    parts = urlsplit(url)
    return parts.scheme in {"http", "https", "ws", "wss"} and parts.hostname not in {"127.0.0.1", "localhost"}
