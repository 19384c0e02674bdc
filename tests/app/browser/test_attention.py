"""A tab in the background says how things stand, and a notification comes for each run that ends, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from relight.runs.record_file import write_record
from relight.runs.records import AttemptExit
from tests.app.browser.conftest import SITE
from tests.app.sample_runs import SampleRun, make_run
from tests.app.served_dashboard import ServedDashboard

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

_RECORD = """() => {
  window.told = []
  window.Notification = class extends Notification {
    constructor(title, { body, tag }) {
      super(title, { body, tag })
      window.told.push([title, body])
    }
  }
}"""
_SHOW = """async (address) => {
  const { show } = await import(address)
  const root = document.querySelector('#root')
  root.innerHTML = '<div class="view"></div>'
  show({ data: { parts: [{ name: 'runs', topics: ['runs'] }], run: '' }, parentElement: root })
}"""
_REMOVE = """async (address) => {
  const { remove } = await import(address)
  remove({ parentElement: document.querySelector('#root') })
}"""
_HIDE = """(hidden) => {
  Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden })
  document.dispatchEvent(new Event('visibilitychange'))
}"""


def _end(run: str, number: int) -> dict[str, str]:
    return {"key": f"{run}-{number}", "name": run, "status": "crashed", "reason": f"Attempt {number} is gone."}


def test_an_icon_that_the_server_could_not_send_is_asked_for_again(blank: Page, problems: list[str]) -> None:
    """If it was away, or has been replaced by one that did not answer."""
    answers: list[Callable[[Route], None]] = [
        lambda route: route.abort(),
        lambda route: route.fulfill(status=503),
        lambda route: route.fulfill(body="<svg></svg>"),
    ]

    def answer(route: Route) -> None:
        answers.pop(0)(route)

    blank.route(f"{SITE}/assets/icon.svg", answer)
    blank.route(f"{SITE}/parts/**", lambda route: route.fulfill(body='<b data-title="A" data-state="crashed">A</b>'))
    blank.evaluate("document.head.insertAdjacentHTML('beforeend', '<link rel=icon>')")
    for _ in range(3):
        blank.evaluate(_SHOW, f"{SITE}/parts.js")
        expect(blank.locator("b")).to_be_visible()
    blank.wait_for_function("document.querySelector('link').href.includes('ef4444')")
    assert (answers, problems) == ([], [])


def test_a_hidden_tab_still_changes_its_title_and_tells_what_ended(blank: Page) -> None:
    shown = {"title": "● 10 % a", "ended": [_end("old", 1)]}

    def answer(route: Route) -> None:
        ended = json.dumps(shown["ended"]).replace('"', "&quot;")
        route.fulfill(body=f'<div data-title="{shown["title"]}" data-ended="{ended}">{shown["title"]}</div>')

    blank.context.grant_permissions(["notifications"], origin=SITE)
    blank.clock.install()
    blank.evaluate(_RECORD)
    blank.route(f"{SITE}/parts/**", answer)
    blank.evaluate("localStorage.setItem('relight-notify', '1')")
    blank.evaluate(_SHOW, f"{SITE}/parts.js")
    expect(blank).to_have_title("● 10 % a")
    blank.evaluate(_HIDE, True)
    shown.update(title="✕ 1 crashed", ended=[_end("a", 1), _end("old", 1)])
    blank.clock.run_for(12_000)
    expect(blank).to_have_title("✕ 1 crashed")
    assert blank.evaluate("told") == [["a crashed", "Attempt 1 is gone."]], "and nothing that the page began with"
    blank.clock.run_for(30_000)
    assert len(blank.evaluate("told")) == 1


def test_a_run_that_ends_while_its_page_is_mounted_again_is_told(blank: Page) -> None:
    """Streamlit may do that at any time, and on a busy machine it takes a while."""
    shown = {"ended": [_end("old", 1)]}

    def answer(route: Route) -> None:
        ended = json.dumps(shown["ended"]).replace('"', "&quot;")
        route.fulfill(body=f'<div data-title="Runs" data-ended="{ended}">{shown["ended"][0]["name"]}</div>')

    blank.context.grant_permissions(["notifications"], origin=SITE)
    blank.evaluate(_RECORD)
    blank.route(f"{SITE}/parts/**", answer)
    blank.evaluate("localStorage.setItem('relight-notify', '1')")
    blank.evaluate(_SHOW, f"{SITE}/parts.js")
    expect(blank.get_by_text("old")).to_be_visible()
    blank.evaluate(_REMOVE, f"{SITE}/parts.js")
    shown["ended"] = [_end("a", 1), _end("old", 1)]
    blank.evaluate(_SHOW, f"{SITE}/parts.js")
    blank.wait_for_function("told.length")
    assert blank.evaluate("told") == [["a crashed", "Attempt 1 is gone."]]


def test_a_run_that_dies_is_told_on_its_page_and_in_the_list_while_the_bell_is_on(
    page: Page, dashboard: ServedDashboard, runs: Path, problems: list[str]
) -> None:
    page.context.grant_permissions(["notifications"], origin=dashboard.site)
    page.add_init_script(f"({_RECORD})()")
    page.goto(dashboard.link)
    bell = page.get_by_role("button", name="Notify me when a run ends")

    def die(name: str, path: str) -> None:
        layout = make_run(runs, SampleRun(name, status="running", step=40))
        page.goto(f"{dashboard.site}{path}{layout.run_id if 'id=' in path else ''}")
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
        ended = AttemptExit(attempt=1, time_s=1.0, outcome="crashed", exit_code=3, reason=f"{name} has no memory.")
        write_record(layout.attempt(1).exit, ended)

    die("untold", "/")
    expect(page.get_by_title("untold has no memory.")).to_be_visible()
    assert page.evaluate("told") == [], "nobody has asked for it"
    expect(bell).to_have_attribute("aria-pressed", "false")
    bell.click()
    expect(bell).to_have_attribute("aria-pressed", "true")
    die("listed", "/")
    page.wait_for_function("told.length")
    assert page.evaluate("told") == [["listed crashed", "listed has no memory."]]
    die("opened", "/run?id=")
    page.wait_for_function("told.length")
    assert page.evaluate("told") == [["opened crashed", "opened has no memory."]]
    expect(page.locator("#relight-first")).to_have_count(0)  # a link before Streamlit loads another page
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(bell).to_have_attribute("aria-pressed", "true")
    assert len(page.evaluate("told")) == 1, "the list shows it from the start"
    bell.click()
    expect(bell).to_have_attribute("aria-pressed", "false")
    die("after", "/")
    expect(page.get_by_title("after has no memory.")).to_be_visible()
    assert page.evaluate("told") == []
    assert problems == []
