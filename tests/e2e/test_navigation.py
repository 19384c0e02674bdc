"""A link leads to its page, whatever the old page requests at that moment."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from relight.runs.record_file import write_record
from relight.runs.records import AttemptExit
from tests.app.sample_runs import SampleRun, make_run
from tests.e2e.conftest import Dashboard, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


class Connection:
    """A proxy between a page and Streamlit that delays messages as a slow network may."""

    def __init__(self, page: Page) -> None:
        self.late: bytes | None = None
        """The delayed request of a fragment."""
        self.delivered = False
        """Whether that request has been delivered."""
        self._answers: list[bytes] | None = None
        self._delays = False
        page.route_web_socket(re.compile("/_stcore/stream"), self._connect)

    def hold_answers(self) -> None:
        """Hold back the server's messages until `release_answers`."""
        self._answers = []

    def release_answers(self) -> None:
        answers, self._answers = self._answers, None
        for message in answers or ():
            self._browser.send(message)

    def delay_a_part(self) -> None:
        """Delay a fragment's next request until just after the next page has begun."""
        self._delays = True

    def _connect(self, browser: WebSocketRoute) -> None:
        self._browser, self._server = browser, browser.connect_to_server()
        browser.on_message(self._from_browser)
        self._server.on_message(self._from_server)

    def _from_browser(self, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        if self._delays and self.late is None and BackMsg.FromString(message).rerun_script.is_auto_rerun:
            self.late = message
        else:
            self._server.send(message)

    def _from_server(self, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        if self.late is not None and not self.delivered:
            begun = ForwardMsg.FromString(message).new_session.page_script_hash
            if begun not in ("", BackMsg.FromString(self.late).rerun_script.page_script_hash):
                self._server.send(self.late)
                self.delivered = True
        if self._answers is None:
            self._browser.send(message)
        else:
            self._answers.append(message)


def test_a_click_on_a_link_is_not_undone_by_a_run_that_changes_at_that_moment(page: Page, dashboard: Dashboard) -> None:
    layout = make_run(dashboard.runs, SampleRun("changing", status="running", step=600))
    connection = Connection(page)
    page.goto(dashboard.address(f"/run?id={layout.run_id}"))
    values = page.locator(".relight-values").first
    expect(values).to_have_attribute("data-status", "running")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    connection.hold_answers()
    page.get_by_role("link", name="Launch", exact=True).click()
    write_record(layout.attempt(1).exit, AttemptExit(attempt=1, time_s=time.time(), outcome="finished", exit_code=0))
    expect(values).to_have_attribute("data-status", "finished")
    page.wait_for_timeout(1_000)  # twice as long as the page takes to request a rerun
    connection.release_answers()
    expect(page.get_by_role("button", name="Launch", exact=True)).to_be_visible()
    assert page.url.startswith(dashboard.address("/launch"))


@pytest.mark.thorough
def test_a_late_request_of_a_fragment_of_the_old_page_does_not_change_the_new_page(
    page: Page, dashboard: Dashboard
) -> None:
    layout = make_run(dashboard.runs, SampleRun("opened", status="running", step=600))
    connection = Connection(page)
    page.goto(dashboard.address("/"))
    link = page.get_by_role("link", name="opened", exact=True)
    expect(link).to_be_visible()
    connection.delay_a_part()
    wait_until(lambda: page.wait_for_timeout(20) or connection.late, timeout_s=30, what="the list of runs was renewed")
    link.click()
    expect(page.get_by_role("heading", name="opened", exact=True)).to_be_visible()
    # When the server answers the next request, it has already handled the delayed one.
    page.get_by_role("radio", name=".pth", exact=True).click()
    export = page.get_by_role("button", name="Export best weights", exact=True)
    export.click()
    expect(page.get_by_text("best_model.pth", exact=True)).to_be_visible()
    assert connection.delivered
    assert page.url == dashboard.address(f"/run?id={layout.run_id}")
