"""If the server dies or the browser goes offline, training continues, and the page later shows every step once."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect
from playwright.sync_api import Error as PlaywrightError

from relight.overview.summary import summarize_run
from relight.runs.layout import RunLayout
from tests.app.sample_runs import SampleRun, make_run
from tests.e2e.charts import Chart
from tests.e2e.conftest import Dashboard, open_browser, serve_dashboard, wait_until
from tests.e2e.trainings import launch_endless, wait_for_status, wait_for_step
from tests.e2e.wire import Wire
from tests.patience import stretch

pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.timeout(300)]


def test_a_run_outlives_kill_9_of_the_server_and_the_next_server_shows_it_running(
    browser: Browser, tmp_path: Path
) -> None:
    with open_browser(browser) as context:
        page = context.new_page()
        with serve_dashboard(tmp_path) as first:
            page.goto(first.url)
            page.goto(first.address("/launch?task=digits"))
            epochs = page.get_by_label("Epochs", exact=True)
            epochs.fill("100000")
            page.get_by_role("button", name="Launch", exact=True).click()
            expect(page.get_by_text("Running", exact=True).first).to_be_visible()
            layout = first.only_layout()
            chart = Chart(page, "Loss")
            before = wait_for_step(layout, 5)
            expect(chart.element).to_be_visible()  # with its first value: without a server, no chart can appear
            first.process.send_signal(signal.SIGKILL)
            first.process.wait(10)
            chart.wait_for_connection("lost")
            bar = page.get_by_text(re.compile(r"No connection since \d+ s; what you see is from \d\d:\d\d:\d\d"))
            expect(bar).to_be_visible()
            alive = wait_for_step(layout, before.step + 20)
            assert (alive.attempt, alive.pids) == (1, before.pids), "the same processes continue"

            with serve_dashboard(tmp_path, port=first.port) as second:
                assert second.url == first.url, "the same link opens it again"
                # The open page reconnects on its own.
                chart.wait_for_connection("open")
                expect(bar).to_have_count(0)
                chart.wait_for_step(summarize_run(layout).step)
                expect(page.get_by_text("Running", exact=True).first).to_be_visible()
                page.get_by_role("button", name="Stop", exact=True).click()
                expect(page.get_by_text("Stopped", exact=True).first).to_be_visible()
                assert wait_for_status(layout, "stopped").attempt == 1
                other = context.new_page()
                other.goto(second.url)
                expect(other.get_by_role("row").filter(has_text=layout.run_id)).to_contain_text("Stopped")


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/launch?task=digits", 32),
        *(
            pytest.param(path, most, marks=pytest.mark.thorough)
            for path in ("/", "/run?id={run}", "/launch?task=digits", "/compare?ids={run},{run}")
            for most in (1, 8, 40, 55)
        ),
    ],
)
def test_no_script_fails_when_the_server_goes_while_a_page_loads(
    browser: Browser, dashboard: Dashboard, wire: Wire, path: str, most: int
) -> None:
    """`most` requests reach the server."""
    layout = make_run(dashboard.runs, SampleRun("kept", status="finished"))
    with open_browser(browser) as context:  # which asserts it
        context.request.get(dashboard.url_over(wire.port), max_redirects=0)
        page = context.new_page()
        asked: list[str] = []

        def count(request: Request) -> None:
            asked.append(request.url)
            if len(asked) == most:
                wire.cut()

        page.on("request", count)
        address = f"http://127.0.0.1:{wire.port}{path.format(run=layout.run_id)}"
        with contextlib.suppress(PlaywrightError):  # the HTML itself may have been cut off
            page.goto(address, wait_until="commit")
        if len(asked) < most:
            wait_until(lambda: page.wait_for_timeout(10) or len(asked) >= most, timeout_s=stretch(60), what="requests")
        for field in page.locator("input:visible").all()[:3]:
            field.press_sequentially("1")
        for button in page.get_by_role("button", name=re.compile("^(Export|Star|Actions for|Launch)")).all()[:2]:
            button.click(force=True)
        page.wait_for_timeout(1500)  # what fails does so now
        wire.mend()
        page.goto(address)
        expect(page.locator("#relight-first")).not_to_be_attached(timeout=stretch(30) * 1000)


def test_a_page_that_was_left_while_the_server_was_gone_follows_its_address(
    browser: Browser, dashboard: Dashboard, wire: Wire
) -> None:
    layout = make_run(dashboard.runs, SampleRun("left", status="finished"))
    with open_browser(browser) as context:
        context.request.get(dashboard.url_over(wire.port), max_redirects=0)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{wire.port}/")
        expect(page.locator("#relight-first")).not_to_be_attached()
        row = page.get_by_role("row").filter(has_text=layout.run_id)
        row.get_by_role("link").first.click()
        heading = page.get_by_role("heading", name="left", exact=True)
        expect(heading).to_be_visible()
        wire.cut()
        streamlit = page.get_by_test_id("stApp")
        expect(streamlit).not_to_have_attribute("data-test-connection-state", "CONNECTED")
        page.go_back()
        wire.mend()
        expect(streamlit).to_have_attribute("data-test-connection-state", "CONNECTED")
        expect(row).to_be_visible()
        expect(heading).to_have_count(0)


@pytest.fixture
def wire(dashboard: Dashboard) -> Iterator[Wire]:
    """This test's browser reaches the dashboard only through this relay."""
    with Wire(dashboard.port) as carried:
        yield carried


@pytest.mark.thorough
def test_a_browser_that_was_offline_catches_up_and_shows_each_step_once(
    browser: Browser, dashboard: Dashboard, wire: Wire
) -> None:
    layout = launch_endless(dashboard.runs)
    with open_browser(browser) as context:
        page = open_run(context, dashboard, wire, layout)
        chart = Chart(page, "Loss")
        chart.wait_for_step(10)
        chart.mark()
        wire.cut()
        chart.wait_for_connection("lost")
        left = chart.points("train")[-1]
        wait_for_step(layout, left + 40)
        wire.mend()
        chart.wait_for_connection("open")
        chart.wait_for_step(summarize_run(layout).step)
        drawn = chart.points("train")
        assert drawn == list(range(1, drawn[-1] + 1)), "no step is missing, and none appears twice"
        assert drawn[-1] >= left + 40
        assert chart.is_marked(), "the chart was patched in place"
        # The rest of the page is live again, too.
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(page.get_by_text("Stopped", exact=True).first).to_be_visible()


@pytest.mark.thorough
def test_a_run_that_ended_while_the_browser_was_offline_is_shown_as_ended(
    browser: Browser, dashboard: Dashboard, wire: Wire
) -> None:
    layout = launch_endless(dashboard.runs)
    with open_browser(browser) as context:
        page = open_run(context, dashboard, wire, layout)
        chart = Chart(page, "Loss")
        chart.wait_for_step(1)
        wire.cut()
        chart.wait_for_connection("lost")
        dashboard.relight("stop", layout.run_id)
        last = wait_for_status(layout, "stopped").step
        wire.mend()
        expect(page.get_by_text("Stopped", exact=True).first).to_be_visible()
        expect(page.get_by_role("button", name="Resume", exact=True)).to_be_visible()
        chart.wait_for_step(last)
        assert chart.points("train") == list(range(1, last + 1))


def open_run(context: BrowserContext, dashboard: Dashboard, wire: Wire, layout: RunLayout) -> Page:
    """Open the page of a run through the relay."""
    page = context.new_page()
    page.goto(dashboard.url_over(wire.port))
    page.goto(f"http://127.0.0.1:{wire.port}/run?id={layout.run_id}")
    return page
