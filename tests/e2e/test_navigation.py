"""A link leads to its page, whatever the old page is doing at that moment, and Back leads back."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Page, Route, WebSocketRoute, expect

from relight.runs.record_file import write_record
from relight.runs.records import AttemptExit
from tests.app.sample_runs import SampleRun, make_run
from tests.e2e.conftest import Dashboard, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def test_a_click_on_a_link_is_not_undone_by_a_run_that_changes_at_that_moment(page: Page, dashboard: Dashboard) -> None:
    layout = make_run(dashboard.runs, SampleRun("changing", status="running", step=600))
    held: list[Route] = []
    page.goto(dashboard.address(f"/run?id={layout.run_id}"))
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    page.route(re.compile("/parts/run-"), lambda route: held.append(route))  # noqa: PLW0108  playwright marks it
    write_record(layout.attempt(1).exit, AttemptExit(attempt=1, time_s=time.time(), outcome="finished", exit_code=0))
    wait_until(lambda: page.wait_for_timeout(20) or held, timeout_s=30, what="the page asked for what has changed")
    page.get_by_role("link", name="Launch", exact=True).click()
    expect(page.get_by_role("button", name="Launch", exact=True)).to_be_visible()
    for route in held:  # the old page's questions are answered after the new page has come
        route.continue_()
    expect(page.get_by_role("button", name="Launch", exact=True)).to_be_visible()
    assert page.url.startswith(dashboard.address("/launch"))
    expect(page).to_have_title("Launch · Relight")


def test_the_answer_of_a_press_does_not_lead_away_from_the_page_that_was_chosen_meanwhile(
    page: Page, dashboard: Dashboard
) -> None:
    pressed: list[Route] = []
    held: list[str | bytes] | None = None
    to_page: list[WebSocketRoute] = []

    def hold_if_asked(message: str | bytes) -> None:
        if held is None:
            to_page[-1].send(message)
        else:
            held.append(message)

    def relay(socket: WebSocketRoute) -> None:
        to_page.append(socket)
        socket.connect_to_server().on_message(hold_if_asked)

    page.route_web_socket(re.compile("/_stcore/stream"), relay)
    page.route(re.compile("/actions/launch"), lambda route: pressed.append(route))  # noqa: PLW0108
    page.goto(dashboard.address("/launch?task=digits"))
    expect(page.locator("#relight-first")).to_have_count(0)
    launch = page.locator("form[data-act=launch]")
    page.get_by_role("button", name="Launch", exact=True).click()
    wait_until(lambda: page.wait_for_timeout(20) or pressed, timeout_s=30, what="the press was sent")
    held = []
    page.get_by_role("link", name="Machine", exact=True).click()
    pressed[0].fulfill(json={"run": "launched"})
    expect(launch).not_to_have_attribute("data-busy", re.compile(".*"))
    messages, held = held, None
    for message in messages:
        to_page[-1].send(message)
    expect(page.get_by_role("heading", name="Machine", exact=True)).to_be_visible()
    assert page.url == dashboard.address("/machine")


def test_links_tabs_and_the_back_button_lead_where_they_say(page: Page, dashboard: Dashboard) -> None:
    layout = make_run(dashboard.runs, SampleRun("opened"))
    page.goto(dashboard.address("/"))
    expect(page.locator("#relight-first")).to_have_count(0)  # a link before Streamlit loads another page
    page.evaluate("window.untouched = true")
    page.get_by_role("table", name="Runs").get_by_role("link", name="opened", exact=True).click()
    expect(page.get_by_role("heading", name="opened", exact=True)).to_be_visible()
    page.get_by_role("tab", name="Config").click()
    expect(page.get_by_role("tabpanel", name="Config")).to_be_visible()
    assert page.url == dashboard.address(f"/run?id={layout.run_id}&tab=config")
    page.get_by_role("link", name="Launch again with this config").click()
    expect(page.get_by_label("Batch size", exact=True)).to_have_value("128")
    page.go_back()
    expect(page.get_by_role("tabpanel", name="Config")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("table", name="Runs").get_by_role("link", name="opened", exact=True)).to_be_visible()
    page.go_forward()
    expect(page.get_by_role("heading", name="opened", exact=True)).to_be_visible()
    assert page.evaluate("window.untouched"), "no page was loaded again"
    page.reload()
    expect(page.get_by_role("tabpanel", name="Config")).to_be_visible()


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_each_of_many_clicks_on_links_arrives(page: Page, dashboard: Dashboard) -> None:
    layout = make_run(dashboard.runs, SampleRun("opened", status="running", step=600))
    page.goto(dashboard.address("/"))
    for _ in range(25):
        page.get_by_role("table", name="Runs").get_by_role("link", name="opened", exact=True).click()
        expect(page.get_by_role("heading", name="opened", exact=True)).to_be_visible()
        assert page.url == dashboard.address(f"/run?id={layout.run_id}")
        page.get_by_role("link", name="Runs", exact=True).click()
        expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
