"""A page that the server began to send is complete in the end, even if the server was away in between."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.app.sample_runs import SampleRun, make_run
from tests.app.served_dashboard import ServedDashboard

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.mark.parametrize(
    "missing",
    [
        r"first_paint\.js",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in (
                r"attention\.js",
                r"static/js/index\.[^/]*\.js",
                r"board\.js",
                r"parts\.js",
                r"stream\.js",
                r"plotly",
            )
        ),
    ],
)
def test_a_file_that_could_not_be_sent_is_fetched_again(
    page: Page, dashboard: ServedDashboard, runs: Path, missing: str
) -> None:
    layout = make_run(runs, SampleRun("sent"))
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if re.search(missing, path) and path not in refused:
            refused.append(path)
            route.abort()
        else:
            route.continue_()

    page.context.request.get(dashboard.link)
    page.route(re.compile(r"\.js$"), refuse_once)
    page.goto(f"{dashboard.site}/run?id={layout.run_id}")
    page.wait_for_selector(".relight-chart[data-points]")
    expect(page.locator("#relight-first")).to_have_count(0)  # Streamlit has taken over
    assert refused
    page.get_by_role("link", name="Machine", exact=True).click()
    expect(page.get_by_role("heading", name="CPU")).to_be_visible()
