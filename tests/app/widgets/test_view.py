"""The view is patched in place in a real browser, so focus, scroll position and menus survive."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.app.served_dashboard import ServedDashboard

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("view")]

Scene = Callable[[str, str], None]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("RELIGHT_CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.skip("no Chromium: run `make test`, which installs it, or set RELIGHT_CHROMIUM")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("view")


@pytest.fixture(scope="module")
def dashboard(runs: Path) -> Iterator[ServedDashboard]:
    _write(runs, "first", "<p>first</p>")
    with ServedDashboard(runs, script=Path(__file__).with_name("page.py")) as served:
        yield served


@pytest.fixture
def page(browser: Browser, dashboard: ServedDashboard, runs: Path) -> Iterator[Page]:
    _write(runs, "first", "<p>first</p>")
    context = browser.new_context(viewport={"width": 900, "height": 700})
    context.set_default_timeout(30_000)
    opened = context.new_page()
    opened.goto(dashboard.link)
    expect(opened.get_by_text("shown: first")).to_be_visible(timeout=60_000)
    yield opened
    context.close()


@pytest.fixture
def scene(page: Page, runs: Path) -> Scene:
    def show(name: str, html: str) -> None:
        _write(runs, name, f'{html}<i class="scene">{name}</i>')
        expect(page.locator("i.scene")).to_have_text(name)  # one patch, so the rest is there, too

    return show


def _write(runs: Path, name: str, html: str) -> None:
    fresh = runs / "scene.new"
    fresh.write_text(json.dumps({"name": name, "html": html}), encoding="utf-8")
    fresh.replace(runs / "scene.json")


def _rows(*keys: str, note: str = "") -> str:
    return "<table>" + "".join(f'<tr data-key="{key}"><td>{key}{note}</td></tr>' for key in keys) + "</table>"


def test_rows_move_and_change_in_place(page: Page, scene: Scene) -> None:
    scene("rows", _rows("a", "b", "c"))
    page.evaluate("window.kept = {}")
    page.locator("tr").evaluate_all("rows => rows.forEach(row => { window.kept[row.dataset.key] = row })")
    scene("moved", _rows("d", "c", "a", note="!"))
    expect(page.locator("tr")).to_have_text(["d!", "c!", "a!"])
    same = page.locator("tr").evaluate_all("rows => rows.map(row => window.kept[row.dataset.key] === row)")
    assert same == [False, True, True]


def test_focus_open_details_and_scroll_survive_an_update(page: Page, scene: Scene) -> None:
    body = (
        '<button data-key="x">press</button><details><summary>more</summary>{0}</details>'
        '<pre style="height:50px;overflow:auto">' + "line\n" * 50 + "{0}</pre>"
    )
    scene("one", body.format("one"))
    page.get_by_text("more").click()
    page.locator("pre").evaluate("node => { node.scrollTop = 120 }")
    page.get_by_role("button", name="press").focus()
    scene("two", body.format("two"))
    expect(page.locator("details")).to_contain_text("two")
    assert page.locator("details").get_attribute("open") is not None
    assert page.locator("pre").evaluate("node => node.scrollTop") == 120
    expect(page.get_by_role("button", name="press")).to_be_focused()


def test_a_log_stays_at_its_end_unless_the_person_has_scrolled_up(page: Page, scene: Scene) -> None:
    def log(lines: int) -> str:
        return '<pre data-follow style="height:80px;overflow:auto">' + "line\n" * lines + "</pre>"

    at_end = "node => node.scrollHeight - node.scrollTop - node.clientHeight < 4"
    scene("short", log(40))
    assert page.locator("pre").evaluate(at_end)
    scene("longer", log(80))
    assert page.locator("pre").evaluate(at_end)
    page.locator("pre").evaluate("node => { node.scrollTop = 10 }")
    scene("longest", log(120))
    assert page.locator("pre").evaluate("node => node.scrollTop") == 10


def test_an_action_arrives_once_with_its_value_and_a_refused_one_does_not(page: Page, scene: Scene) -> None:
    scene(
        "buttons",
        '<button data-action="pin" data-value="{&quot;step&quot;: 7}">Pin</button>'
        '<button data-action="never" aria-disabled="true">Never</button>',
    )
    page.get_by_role("button", name="Never").click(force=True)
    page.get_by_role("button", name="Pin").click()
    expect(page.get_by_text('done: pin {"step": 7}', exact=True)).to_be_visible()


def test_a_menu_opens_by_its_button_closes_with_escape_and_survives_an_update(page: Page, scene: Scene) -> None:
    menu = (
        '<button data-menu="m" aria-label="Actions" aria-haspopup="menu" aria-expanded="false">…</button>'
        '<div id="m" role="menu" popover="auto"><button role="menuitem" data-action="go">Go</button>'
        '<button role="menuitem" data-action="halt">Halt</button></div>{0}'
    )
    scene("menu", menu.format("a"))
    page.get_by_role("button", name="Actions").click()
    expect(page.get_by_role("menuitem", name="Go")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("menuitem", name="Halt")).to_be_focused()
    scene("menu again", menu.format("b"))
    expect(page.get_by_role("menuitem", name="Go")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("menuitem", name="Go")).to_be_hidden()
    expect(page.get_by_role("button", name="Actions")).to_have_attribute("aria-expanded", "false")


def test_ages_count_up_in_the_browser(page: Page, scene: Scene) -> None:
    now = page.evaluate("Date.now() / 1000")
    scene("age", f'<time data-s="{now - 125}">?</time>')
    expect(page.locator("time")).to_have_text("2 min ago")
