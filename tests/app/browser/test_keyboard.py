"""Keys act anywhere on the page, on the row that has the focus first, and never while a person types."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, expect

from tests.app.browser.conftest import SITE
from tests.app.browser.test_presses import _LISTEN, Server

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def _row(run: str) -> str:
    payload = json.dumps({"run": run})
    return f"""<tr data-key="{run}">
      <td><input type="checkbox" data-select="{run}" aria-label="Select {run}"></td>
      <td><a class="open" href="/run?id={run}">{run}</a></td>
      <td><button data-act="resume" data-payload='{payload}' data-key-r>Resume</button>
          <button data-act="stop" data-payload='{payload}' data-key-s>Stop</button></td></tr>"""


LIST = f"""<div class="part"><label>Search runs<input type="search"></label>
  <div data-selection hidden><span data-count></span>
    <button data-with-selected="/compare?ids=" data-key-c>Compare</button></div>
  <table>{_row("a")}{_row("b")}</table>
  <label>Note<textarea></textarea></label><label>Order<select><option>s</option><option>r</option></select></label>
  <button id="menu-button">⋯</button><div role="menu"><button role="menuitem">Star</button></div></div>"""


@pytest.fixture
def server(blank: Page) -> Server:
    """A list of two runs; the answers to its presses."""
    blank.evaluate(_LISTEN, [f"{SITE}/gestures.js", LIST])
    return Server(blank)


def _asked(page: Page, server: Server) -> list[tuple[str, str]]:
    expect(page.locator("[data-busy]")).to_have_count(0)
    return [(name, payload["run"]) for name, payload, _ in server.asked]


def test_j_k_and_enter_walk_through_the_list(blank: Page, server: Server) -> None:
    for key, run in (("j", "a"), ("j", "b"), ("j", "b"), ("k", "a"), ("k", "a")):
        blank.keyboard.press(key)
        expect(blank.get_by_role("link", name=run, exact=True)).to_be_focused()
    blank.keyboard.press("Enter")
    blank.wait_for_function("() => location.search === '?id=a'")


def test_r_and_s_act_on_the_row_with_the_focus(blank: Page, server: Server) -> None:
    for key in ("r", "s", "j", "j", "r"):  # the first two mean no row yet
        blank.keyboard.press(key)
    assert _asked(blank, server) == [("resume", "b")]
    for key in ("k", "s"):
        blank.keyboard.press(key)
    assert _asked(blank, server) == [("resume", "b"), ("stop", "a")]


def test_x_selects_and_c_compares_what_is_selected(blank: Page, server: Server) -> None:
    blank.keyboard.press("c")  # nothing is selected: the button is hidden
    assert blank.evaluate("location.pathname") == "/"
    for key in ("j", "x", "j", "x"):
        blank.keyboard.press(key)
    expect(blank.get_by_text("2 selected")).to_be_visible()
    blank.keyboard.press("c")
    blank.wait_for_function("() => location.pathname + location.search === '/compare?ids=a,b'")


def test_slash_goes_to_the_search_and_question_mark_shows_the_keys(blank: Page, server: Server) -> None:
    blank.keyboard.press("/")
    expect(blank.get_by_role("searchbox")).to_be_focused()
    expect(blank.get_by_role("searchbox")).to_have_value("")
    blank.keyboard.press("Tab")
    blank.keyboard.press("?")
    help_ = blank.get_by_role("dialog", name="Keys")
    expect(help_).to_contain_text("Compare the selected runs")
    for key in ("s", "r", "?"):
        blank.keyboard.press(key)  # the dialog is open: nothing behind it acts
    expect(help_).to_have_count(1)
    blank.keyboard.press("Escape")
    expect(help_).to_have_count(0)
    assert _asked(blank, server) == []


@pytest.mark.parametrize("place", ["searchbox", "textbox", "combobox", "menuitem"])
def test_no_key_acts_while_a_person_types_or_has_a_menu_open(blank: Page, server: Server, place: str) -> None:
    blank.get_by_label("Select a").check()
    blank.get_by_role(place).focus()  # type: ignore[arg-type]
    for key in "rscjkx?/":
        blank.keyboard.press(key)
    expect(blank.get_by_role(place)).to_be_focused()  # type: ignore[arg-type]
    if place in ("searchbox", "textbox"):
        expect(blank.get_by_role(place)).to_have_value("rscjkx?/")  # type: ignore[arg-type]
    assert (_asked(blank, server), blank.evaluate("location.pathname")) == ([], "/")
    expect(blank.get_by_role("dialog")).to_have_count(0)


@pytest.mark.parametrize("modifier", ["Control", "Alt", "Meta"])
def test_shortcuts_of_the_browser_stay_the_browsers(blank: Page, server: Server, modifier: str) -> None:
    blank.keyboard.press("j")
    blank.keyboard.press(f"{modifier}+r")
    blank.keyboard.press(f"{modifier}+s")
    assert _asked(blank, server) == []


def test_r_and_s_act_on_the_run_of_its_page_wherever_the_focus_is(blank: Page, server: Server) -> None:
    rows = """<table><tr data-key="7"><td><button aria-label="Actions for step 7">⋯</button></td></tr></table>"""
    button = """<button data-act="stop" data-payload='{"run": "a"}' data-key-s>Stop</button>"""
    blank.evaluate("html => { document.querySelector('.part').innerHTML = html }", button + rows)
    blank.get_by_role("button", name="Actions for step 7").focus()
    for key in ("r", "s"):
        blank.keyboard.press(key)
    assert _asked(blank, server) == [("stop", "a")]
