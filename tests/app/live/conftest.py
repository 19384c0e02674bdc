"""A dashboard that serves `page.py`, and a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.app.served_dashboard import ServedDashboard


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    names = [os.environ.get("RELIGHT_CHROMIUM", ""), "chromium", "google-chrome", "chromium-browser"]
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no Chromium; `make test` installs one")
    expect.set_options(timeout=30_000)  # the machine may run other tests as well
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of `dashboard`."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def dashboard(runs: Path) -> Iterator[ServedDashboard]:
    """A dashboard over `runs` that shows `page.py`."""
    with ServedDashboard(runs, script=Path(__file__).with_name("page.py")) as served:
        yield served


@pytest.fixture
def problems() -> list[str]:
    """The errors that the browser reports. Tests that expect none assert that it is empty."""
    return []


@pytest.fixture
def open_page(browser: Browser, dashboard: ServedDashboard, problems: list[str]) -> Iterator[Callable[..., Page]]:
    """Open the page of a run in a new browser, and wait until its charts are drawn."""
    contexts = []

    def open_run(run: str, *, served: ServedDashboard | None = None) -> Page:
        context = new_context(browser)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        show_run(page, served or dashboard, run)
        return page

    yield open_run
    for context in contexts:
        context.close()


def new_context(browser: Browser) -> BrowserContext:
    """Open a fresh browser context with a time zone that no test machine is likely to use."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 1100}, color_scheme="dark", timezone_id="America/St_Johns"
    )
    context.set_default_timeout(30_000)
    return context


def show_run(page: Page, served: ServedDashboard, run: str) -> None:
    """Open the page of a run, and wait until its charts are drawn."""
    page.goto(f"{served.link}&run={run}")
    page.wait_for_selector(".relight-board[data-charts]", timeout=60_000)
    page.wait_for_function(
        """() => [...document.querySelectorAll('.relight-chart')].every(
          (one) => one.dataset.points || one.getBoundingClientRect().bottom > innerHeight)"""
    )
