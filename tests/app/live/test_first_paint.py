"""A page is shown, and works, before Streamlit has started, and nothing moves when Streamlit takes it over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.asking import wait_until
from tests.app.live.conftest import new_context
from tests.app.sample_runs import SampleRun, make_run
from tests.app.served_dashboard import ServedDashboard

pytestmark = pytest.mark.browser
STREAMLIT = re.compile(r"/static/js/index\.(?!esm)[^/]*\.js$")
_LOOK = """() => {
  const box = (element) => {
    const { x, y, width, height } = element.getBoundingClientRect()
    return [x, y, width, height]
  }
  const all = (root, selector) => [...root.querySelectorAll(selector)]
  const shadows = all(document, '*').map((element) => element.shadowRoot).filter(Boolean)
  const board = document.querySelector('.relight-board')
  const style = getComputedStyle(board)
  const rules = shadows.flatMap((root) => all(root, 'style')).map((one) => one.textContent).join('')
  const names = [...new Set(rules.match(/--st-[a-z0-9-]+/g))].sort()
  const links = innerWidth > 600 ? all(document, 'nav a').filter((link) => link.checkVisibility()) : []
  return {
    boxes: [board, ...shadows.flatMap((root) => all(root, '[data-part]')), ...links].map(box),
    values: names.map((name) => [name, style.getPropertyValue(name)]),
    text: [style.fontFamily, style.fontSize, style.lineHeight, style.color],
    links: links.map((link) => getComputedStyle(link).color),
  }
}"""


@pytest.fixture(scope="module")
def served(runs: Path) -> Iterator[ServedDashboard]:
    """The real dashboard."""
    with ServedDashboard(runs) as dashboard:
        yield dashboard


def _look_at(page: Page) -> dict[str, Any]:
    expect(page.locator(".relight-chart[data-points]").first).to_be_visible()
    page.wait_for_function("document.fonts.ready.then(() => true)")
    found: dict[str, Any] = page.evaluate(_LOOK)
    return found


@pytest.mark.parametrize(
    ("scheme", "width"),
    [("light", 1280), *(pytest.param(*look, marks=pytest.mark.thorough) for look in (("dark", 1280), ("light", 390)))],
)
def test_nothing_moves_when_streamlit_takes_over(
    browser: Browser, served: ServedDashboard, runs: Path, scheme: Any, width: int
) -> None:
    layout = make_run(runs, SampleRun("looks", status="finished"))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.route(STREAMLIT, lambda route: route.abort())
    page.goto(served.link.replace("/?", f"/run?id={layout.run_id}&"))
    before = _look_at(page)
    page.unroute(STREAMLIT)
    page.reload()
    expect(page.locator("#relight-first")).not_to_be_attached()
    after = _look_at(page)
    context.close()
    assert len(before["values"]) > 20 and before["values"] == after["values"]
    assert (before["text"], before["links"]) == (after["text"], after["links"])
    assert len(before["boxes"]) >= 7
    for one, other in zip(before["boxes"], after["boxes"], strict=True):
        assert one == pytest.approx(other, abs=1.5)


def test_what_is_typed_and_opened_early_survives(browser: Browser, served: ServedDashboard, runs: Path) -> None:
    make_run(runs, SampleRun("early", status="finished"))
    context = new_context(browser)
    page = context.new_page()
    held: list[Any] = []
    page.route(STREAMLIT, lambda route: held.append(route))  # noqa: PLW0108  Playwright cannot call a built-in function
    page.goto(served.link, wait_until="commit")
    search = page.locator("[type=search]").first
    search.press_sequentially("earl")
    expect(page).to_have_url(re.compile(r"q=earl$"))
    expect(page.locator("[data-part=runs] a.open")).to_have_count(1)
    expect(page.locator("#relight-first")).to_be_visible()
    held[0].continue_()
    expect(page.locator("#relight-first")).not_to_be_attached()
    expect(search).to_be_focused()
    search.press_sequentially("y")
    expect(search).to_have_value("early")
    expect(page.locator("[data-part=runs] a.open")).to_have_count(1)
    context.close()


def test_what_is_pressed_and_typed_before_a_page_is_live_counts(
    browser: Browser, served: ServedDashboard, runs: Path
) -> None:
    layout = make_run(runs, SampleRun("soon", status="finished"))
    with served.client() as client:  # what the server says may be a moment old
        wait_until(lambda: layout.run_id in client.get("/api/runs").text, what="the run in the list")
    context = new_context(browser)
    page = context.new_page()
    held: list[Any] = []
    page.route(re.compile(r"/parts\.js$"), lambda route: held.append(route))  # noqa: PLW0108  Playwright cannot call a built-in function
    page.goto(served.link, wait_until="commit")
    page.locator("[type=search]").first.press_sequentially("soon")
    page.get_by_role("radio", name="Finished").dblclick()
    page.get_by_role("button", name="Actions for soon").click()
    wait_until(lambda: page.evaluate("true") and bool(held), what="the request for the module")
    assert "?" not in page.url
    for route in held:
        route.continue_()
    expect(page).to_have_url(re.compile(r"q=soon"))
    assert "status=finished" in page.url
    expect(page.locator("[data-part=runs] a.open")).to_have_count(1)
    expect(page.get_by_role("button", name="Actions for soon")).to_have_attribute("aria-expanded", "true")
    expect(page.locator("[popover]:popover-open")).to_contain_text("Rename")
    context.close()


def test_a_page_works_without_streamlit(
    browser: Browser, served: ServedDashboard, runs: Path, problems: list[str]
) -> None:
    layout = make_run(runs, SampleRun("alone", status="finished"))
    context = new_context(browser)
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.route(STREAMLIT, lambda route: route.abort())
    page.goto(served.link)
    page.locator(f"a.open[href*='{layout.run_id}']").click()
    expect(page).to_have_url(re.compile(r"/run\?id="))
    expect(page.locator(".relight-chart[data-points]").first).to_be_visible()
    page.go_back()
    expect(page.locator(f"a.open[href*='{layout.run_id}']")).to_be_visible()
    context.close()
    assert problems == []
