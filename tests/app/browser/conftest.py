"""A real browser, a real dashboard, and an empty page that loads the browser modules."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from relight_app.urls import MODULES
from tests.app.served_dashboard import ServedDashboard

SITE = "http://localhost:9"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    path = os.environ.get("RELIGHT_CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.skip("no Chromium: run `make test`, which installs it, or set RELIGHT_CHROMIUM")
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def problems() -> list[str]:
    """The errors of the page's scripts. Tests that expect none assert that it is empty."""
    return []


@pytest.fixture
def page(browser: Browser, problems: list[str]) -> Iterator[Page]:
    """A page of a fresh browser."""
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    context.set_default_timeout(30_000)
    opened = context.new_page()
    opened.on("pageerror", lambda error: problems.append(str(error)))
    yield opened
    context.close()


@pytest.fixture
def blank(page: Page) -> Page:
    """An empty page whose site serves our browser modules and nothing else; tests route the rest."""

    def serve(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        if route.request.url == f"{SITE}/":
            route.fulfill(body="<!doctype html><div id='root'></div>", content_type="text/html")
        elif name.endswith(".js"):
            route.fulfill(body=(MODULES / name).read_text(encoding="utf-8"), content_type="text/javascript")
        else:
            route.fulfill(status=404)

    page.route(f"{SITE}/**", serve)
    page.goto(f"{SITE}/")
    return page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of `dashboard`."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def dashboard(runs: Path) -> Iterator[ServedDashboard]:
    """The real dashboard over `runs`."""
    with ServedDashboard(runs) as served:
        yield served
