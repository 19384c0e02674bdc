"""A part that the server cannot build for a while, as when its runs folder is out of reach, comes back on its own."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect

from tests.app.browser.conftest import SITE

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

_SHOW = """async ([address, topics]) => {
  const { show } = await import(address)
  document.querySelector('#root').innerHTML = '<div class="view"></div>'
  show({ data: { parts: [{ name: 'form', topics }], run: '' }, parentElement: document.querySelector('#root') })
}"""
_REFRESH = "async (address) => (await import(address)).refresh()"
FAILED = {"body": "<p>No folder.</p>", "headers": {"Relight-Failed": "1", "ETag": "x"}}
BUILT = {"body": "<p>Built.</p><input>", "headers": {"ETag": "y"}}


@pytest.mark.parametrize("topics", [[], ["runs"]], ids=["a form", "a live part"])
def test_a_part_that_could_not_be_built_is_asked_for_again(blank: Page, topics: list[str]) -> None:
    answers = [FAILED, BUILT, FAILED, BUILT]
    asked = []

    def answer(route: Route) -> None:
        asked.append(answers[len(asked)] if len(asked) < len(answers) else BUILT)
        route.fulfill(status=200, **asked[-1])

    blank.route(f"{SITE}/parts/**", answer)
    blank.evaluate(_SHOW, [f"{SITE}/parts.js", topics])
    expect(blank.get_by_text("No folder.")).to_be_visible()
    expect(blank.get_by_text("Built.")).to_be_visible()
    blank.get_by_role("textbox").fill("typed")
    blank.evaluate(_REFRESH, f"{SITE}/parts.js")
    assert asked[2] is FAILED
    if topics:
        expect(blank.get_by_text("No folder.")).to_be_visible()
    else:
        expect(blank.get_by_text("Built.")).to_be_visible()
        expect(blank.get_by_role("textbox")).to_have_value("typed")
    expect(blank.get_by_text("Built.")).to_be_visible()


def test_a_part_that_fails_again_and_again_is_asked_for_once_a_second(blank: Page) -> None:
    asked = []

    def answer(route: Route) -> None:
        asked.append(route)
        route.fulfill(status=200, **FAILED)

    blank.route(f"{SITE}/parts/**", answer)
    blank.evaluate(_SHOW, [f"{SITE}/parts.js", ["runs"]])
    expect(blank.get_by_text("No folder.")).to_be_visible()
    for _ in range(5):  # as when the event stream tells of changes
        blank.evaluate(_REFRESH, f"{SITE}/parts.js")
        blank.wait_for_timeout(100)
    before = len(asked)
    blank.wait_for_timeout(2200)  # a rate takes time to see: six questions a second were asked before
    assert len(asked) - before <= 3
