"""Our components' code works when Streamlit calls it for new data and for cleanup, even out of order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

import relight_app
from relight_app.live import component

pytestmark = [pytest.mark.browser]

_VIEW = Path(relight_app.__file__).parent / "widgets" / "view.js"
_MENU = """
<button data-menu="menu">Actions</button>
<div id="menu" popover role="menu"><button role="menuitem" data-action="pin" data-value="7">Pin</button></div>
"""
_LOAD = """async ([code]) => {
  const url = URL.createObjectURL(new Blob([code], { type: 'text/javascript' }))
  window.component = (await import(url)).default
}"""
# New data arrives while Streamlit is still loading the code: it draws both, and then cleans up the first one.
_DRAW_TWICE = """([first, second]) => {
  window.sent = []
  const parentElement = document.querySelector('#parent')
  const setTriggerValue = (name, value) => window.sent.push([name, value])
  const draw = (data) => window.component({ data, parentElement, setTriggerValue })
  const cleanUpFirst = draw(first)
  window.cleanUp = draw(second)
  cleanUpFirst()
  window.draw = draw
}"""


@pytest.fixture
def blank(browser: Browser) -> Iterator[Page]:
    """An empty page with an element for a component."""
    page = browser.new_page()
    body = "<div id='parent'><div class='view'></div></div>"
    page.route("http://localhost/", lambda route: route.fulfill(body=body, content_type="text/html"))
    page.goto("http://localhost/")
    yield page
    page.close()


def test_a_view_that_got_new_data_at_once_handles_each_click_once(blank: Page) -> None:
    blank.evaluate(_LOAD, [_VIEW.read_text(encoding="utf-8")])
    blank.evaluate(_DRAW_TWICE, [{"html": "<p>soon</p>"}, {"html": _MENU}])
    blank.evaluate("html => { window.draw({ html }) }", _MENU)
    blank.get_by_role("button", name="Actions").click()
    assert blank.locator("#menu").evaluate("menu => menu.matches(':popover-open')")
    blank.get_by_role("menuitem", name="Pin").click()
    assert blank.evaluate("window.sent") == [["action", {"name": "pin", "value": 7}]]


@pytest.mark.parametrize(("stays", "calls"), [(True, ["show", "show"]), (False, ["show", "show", "remove"])])
def test_a_live_component_is_removed_only_with_its_element(blank: Page, stays: bool, calls: list[str]) -> None:
    module = """data:text/javascript,
        export const show = () => window.calls.push('show')
        export const remove = () => window.calls.push('remove')"""
    blank.evaluate("window.calls = []")
    blank.evaluate(_LOAD, [component._IMPORT_MODULE])
    blank.evaluate(_DRAW_TWICE, [{"module": module}, {"module": module}])
    if not stays:
        blank.evaluate("document.querySelector('#parent').remove(); window.cleanUp()")
    blank.evaluate("module => import(module).then(() => null)", module)
    assert blank.evaluate("window.calls") == calls
