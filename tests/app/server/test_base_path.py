"""A real browser below a base path: it asks for nothing outside of it, and keeps no token."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.live.conftest import browser, new_context
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import begin_attempt, log_rows, make_run

__all__ = ["browser"]
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("live")]
PATIENCE_MS = 60_000


@pytest.mark.thorough
def test_the_dashboard_works_below_a_path(browser: Browser, tmp_path: Path) -> None:
    layout = make_run(tmp_path, "below")
    begin_attempt(layout, 1, time_s=time.time())
    log_rows(layout, [(step, {"loss": 1 / step}) for step in range(1, 50)])
    with ServedDashboard(tmp_path, arguments=["--base-path", "/labs/relight"]) as served:
        context = new_context(browser)
        page, asked = context.new_page(), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda opened: asked.append(opened.url.replace("ws://", "http://")))
        page.goto(served.link)
        page.get_by_role("link", name="below").first.click(timeout=PATIENCE_MS)
        _expect_charts(page)
        assert page.url == f"{served.site}/labs/relight/run?id={layout.run_id}"
        page.reload()
        _expect_charts(page)
        log_rows(layout, [(50, {"loss": 123.0})])
        expect(page.get_by_text("123").first).to_be_visible(timeout=PATIENCE_MS)
        page.go_back()
        expect(page.get_by_role("link", name="below").first).to_be_visible(timeout=PATIENCE_MS)
        page.go_back()
        assert page.url == "about:blank", "the address with the token must not be in the history"
        context.close()
    outside = [url for url in asked if not url.startswith((f"{served.site}/labs/relight/", "data:", "blob:"))]
    assert asked and not outside


def _expect_charts(page: Page) -> None:
    page.wait_for_selector(".relight-board[data-charts]", timeout=PATIENCE_MS)
    page.wait_for_function("() => [...document.querySelectorAll('.relight-chart')].every((one) => one.dataset.points)")
