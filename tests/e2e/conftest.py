"""Provides a real dashboard on a free port, a headless Chromium, and an empty runs folder for each test."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from tests.compiler import with_compiler

START_S = 90.0
PATIENCE_MS = 30_000
"""How long a page may take on a machine that also runs other tests."""
WITHOUT_CARD = {"CUDA_VISIBLE_DEVICES": ""}
"""All trainings use the CPU, even on machines with a GPU."""
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


@dataclass(frozen=True)
class Dashboard:
    """A running dashboard, and the command line for the same runs folder."""

    url: str
    """The printed address, with the token."""
    runs: Path
    process: subprocess.Popen[str]
    compiler: bool
    """Whether its trainings load PyTorch's compiler, as real ones do."""

    @property
    def port(self) -> int:
        """The port of the dashboard."""
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def address(self, path: str) -> str:
        """Return the address of a page such as "/run?id=digits-k3f9", for a browser that has opened `url`."""
        return f"http://127.0.0.1:{self.port}{path}"

    def url_over(self, port: int) -> str:
        """Return `url` with another port, which forwards to the dashboard."""
        return self.url.replace(f":{self.port}/", f":{port}/")

    def relight(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `relight` command on this runs folder."""
        result = subprocess.run(
            [sys.executable, "-m", "relight.cli", *arguments, "--runs", str(self.runs)],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            env={**_environment(compiler=self.compiler), **WITHOUT_CARD},
        )
        assert not check or result.returncode == 0, result.stderr
        return result

    def refusal(self, *arguments: str) -> str:
        """Return the error sentence of a command that fails."""
        result = self.relight(*arguments, check=False)
        assert result.returncode in (1, 2), result
        (line,) = result.stderr.splitlines()
        return line.removeprefix("relight: ")

    def show(self, run: str) -> dict[str, Any]:
        """Return the output of `relight show RUN --json`."""
        shown: dict[str, Any] = json.loads(self.relight("show", run, "--json").stdout)
        return shown

    def only_run(self) -> str:
        """Return the id of the only run."""
        return self.only_layout().run_id

    def only_layout(self) -> RunLayout:
        """Return the folder of the only run."""
        (layout,) = list_layouts(self.runs)
        return layout


def wait_until(condition: Callable[[], Any], *, timeout_s: float, what: str) -> Any:
    """Poll until `condition` returns a true value, and return that value. At the timeout, fail with `what`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.05)


def _environment(*, compiler: bool) -> dict[str, str]:
    return with_compiler(os.environ) if compiler else dict(os.environ)


@contextmanager
def serve_dashboard(folder: Path, *, port: int = 0, compiler: bool = True) -> Iterator[Dashboard]:
    """Serve a dashboard for `folder/runs`. A later one with the same `folder` has the same token."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = folder / "runs"
    environment = _environment(compiler=compiler)
    clean = {name: value for name, value in environment.items() if not name.startswith(("RELIGHT_", "STREAMLIT_"))}
    own = {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_STATE_HOME": str(folder / "state")}
    log = folder / f"dashboard-{time.time_ns()}.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "relight_app", "--port", str(port), "--no-browser", "--runs", str(runs)],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=clean | own | WITHOUT_CARD,
        )
    try:
        address = wait_until(
            lambda: re.search(r"http://\S+", log.read_text()) or process.poll() is not None,
            timeout_s=START_S,
            what="the dashboard printed its address",
        )
        assert isinstance(address, re.Match), log.read_text()
        yield Dashboard(address.group(), runs, process, compiler)
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            end_runs(runs)


def end_runs(runs: Path) -> None:
    """Kill the processes that still train in `runs`, recognized by their command line."""
    ended = []
    for process in psutil.process_iter(["cmdline"]):
        if any(part.startswith(f"{runs}/") for part in process.info["cmdline"] or ()):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
            ended.append(process)
    psutil.wait_procs(ended, timeout=10)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """The dashboard that all tests of this process share."""
    with serve_dashboard(tmp_path_factory.mktemp("e2e"), compiler=False) as dashboard:
        yield dashboard


@pytest.fixture
def dashboard(served: Dashboard) -> Iterator[Dashboard]:
    """The shared dashboard, with an empty runs folder; at the end, everything that it started is killed."""
    assert served.process.poll() is None, "an earlier test ended the shared dashboard"
    yield served
    end_runs(served.runs)
    for entry in served.runs.iterdir() if served.runs.is_dir() else ():
        shutil.rmtree(entry)


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """The Chromium in RELIGHT_CHROMIUM, which `make test` sets, or else the first one on the PATH."""
    if find_chromium() is None:
        pytest.skip("no Chromium: run `make test`, which installs it, or set RELIGHT_CHROMIUM")
    started = start_chromium(playwright)
    yield started
    started.close()


def find_chromium() -> str | None:
    """Return the path of Chromium, or None if there is no Chromium."""
    return os.environ.get("RELIGHT_CHROMIUM") or shutil.which("chromium")


def start_chromium(playwright: Playwright) -> Browser:
    """Start a headless Chromium."""
    return playwright.chromium.launch(executable_path=find_chromium(), args=_FLAGS)


@contextmanager
def open_browser(browser: Browser, *, may_fail: bool = False) -> Iterator[BrowserContext]:
    """Open a fresh browser context. No request of its pages may leave this machine, and no script may fail.

    `may_fail` allows failing scripts: if the server dies while a page loads, the page lacks some of its scripts.
    """
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    context.set_default_timeout(2 * PATIENCE_MS)
    away: list[str] = []
    failures: list[str] = []
    context.on("request", lambda request: away.append(request.url) if leaves_the_machine(request.url) else None)
    context.on("weberror", lambda error: failures.append(str(error.error)))
    try:
        yield context
    finally:
        context.close()
    assert away == [], away
    assert may_fail or failures == [], failures


@pytest.fixture
def page(browser: Browser, dashboard: Dashboard) -> Iterator[Page]:
    """An empty page of a browser that has the cookie."""
    with open_browser(browser) as context:
        context.request.get(dashboard.url, max_redirects=0)
        yield context.new_page()


@pytest.fixture
def start_page(page: Page, dashboard: Dashboard) -> Page:
    """A page that has opened the link that the dashboard printed."""
    page.goto(dashboard.url)
    return page


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the text of the page, the runs, and the output of the dashboard to the report of a failure."""
    report = yield
    arguments: dict[str, Any] = getattr(item, "funcargs", {})
    if report.when == "call" and report.failed:
        page, dashboard = arguments.get("page"), arguments.get("dashboard")
        if isinstance(page, Page):
            report.sections.append(("text of the page", _describe_page(page)))
        if isinstance(dashboard, Dashboard):
            report.sections.append(("state of the dashboard", _describe_dashboard(dashboard)))
    return report


def _describe_page(page: Page) -> str:
    try:
        return f"{page.url}\n{page.locator('body').aria_snapshot(timeout=5_000)}"  # with the text in shadow roots
    except PlaywrightError as error:
        return f"{page.url}\ncannot be read: {error}"


def _describe_dashboard(dashboard: Dashboard) -> str:
    runs = sorted(path.name for path in dashboard.runs.iterdir()) if dashboard.runs.is_dir() else []
    logs = sorted(dashboard.runs.parent.glob("dashboard-*.txt"))
    printed = logs[-1].read_text(errors="replace")[-4000:] if logs else "nothing"
    return f"runs: {runs}\noutput:\n{printed}"


def leaves_the_machine(url: str) -> bool:
    """Return whether a request for `url` leaves this machine."""
    parts = urlsplit(url)
    return parts.scheme in {"http", "https", "ws", "wss"} and parts.hostname not in {"127.0.0.1", "localhost"}
