"""Markup is patched in place in a real browser: identity, focus, scroll and what was typed survive."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.app.browser.conftest import SITE

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

_PATCH = """async ([address, html]) => {
  const { patchChildren } = await import(address)
  const wanted = document.createElement('template')
  wanted.innerHTML = html
  patchChildren(document.querySelector('#root'), wanted.content)
}"""


def _show(page: Page, html: str) -> None:
    page.evaluate(_PATCH, [f"{SITE}/patch.js", html])


def _rows(*keys: str, note: str = "") -> str:
    rows = "".join(f'<tr data-key="{key}"><td>{key}{note}</td></tr>' for key in keys)
    return f"<table><tbody>{rows}</tbody></table>"


def test_rows_move_and_change_in_place(blank: Page) -> None:
    _show(blank, _rows("a", "b", "c"))
    blank.evaluate(
        "window.kept = Object.fromEntries([...document.querySelectorAll('tr')].map((r) => [r.dataset.key, r]))"
    )
    _show(blank, _rows("d", "c", "a", note="!"))
    expect(blank.locator("tr")).to_have_text(["d!", "c!", "a!"])
    same = blank.locator("tr").evaluate_all("rows => rows.map((row) => window.kept[row.dataset.key] === row)")
    assert same == [False, True, True]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<p>one</p>", ""),
        ("", "<p>one</p>two"),
        ("one<b>two</b>three", "<b>two</b>"),
        ("<p class='a' title='t'>one</p>", "<p class='b' id='i'>two</p>"),
        ("<i data-key='a'>a</i><i data-key='b'>b</i>", "<b data-key='b'>b</b><i data-key='a'>a</i>"),
        ("<i data-key='a'>a</i><i>x</i><i data-key='b'>b</i>", "<i>y</i><i data-key='b'>b</i><i>z</i>"),
        (
            "<i data-key='1'>1</i><i data-key='2'>2</i><i data-key='3'>3</i>",
            "<i data-key='3'>3</i><i data-key='1'>1</i>",
        ),
        ("<svg><path d='M0 0'></path></svg>", "<svg viewBox='0 0 1 1'><path d='M1 1'></path></svg>"),
        ("<details open><summary>s</summary></details>", "<p></p><details open><summary>s</summary>x</details>"),
    ],
)
def test_the_result_is_what_was_wanted(blank: Page, before: str, after: str) -> None:
    _show(blank, before)
    _show(blank, after)
    normal = "html => { const t = document.createElement('template'); t.innerHTML = html; return t.innerHTML }"
    assert blank.locator("#root").inner_html() == blank.evaluate(normal, after)


def test_any_order_of_rows_becomes_any_other(blank: Page) -> None:
    """The browser shuffles, adds and removes rows; each result must be complete and in order."""
    failed = blank.evaluate(
        """async (address) => {
      const { patchChildren } = await import(address)
      let seed = 7
      const random = (below) => (seed = (seed * 16807) % 2147483647) % below
      const root = document.querySelector('#root')
      for (let round = 0; round < 500; round += 1) {
        const keys = [...'abcdefghij'].filter(() => random(3)).sort(() => random(3) - 1)
        const wanted = document.createElement('template')
        wanted.innerHTML = keys.map((key) => (random(4) ? `<i data-key="${key}">${key}</i>` : `<i>${key}</i>`)).join('')
        const html = wanted.innerHTML
        patchChildren(root, wanted.content)
        if (root.innerHTML !== html) return [html, root.innerHTML]
      }
      return null
    }""",
        f"{SITE}/patch.js",
    )
    assert failed is None


def test_focus_open_details_and_scroll_survive_an_update(blank: Page) -> None:
    body = (
        '<button data-key="x">press</button><details><summary>more</summary>{0}</details>'
        '<pre style="height:50px;overflow:auto">' + "line\n" * 50 + "{0}</pre>"
    )
    _show(blank, body.format("one"))
    blank.get_by_text("more").click()
    blank.locator("pre").evaluate("node => { node.scrollTop = 120 }")
    blank.get_by_role("button", name="press").focus()
    _show(blank, "<h2>new above</h2>" + body.format("two"))
    expect(blank.locator("details")).to_contain_text("two")
    assert blank.locator("details").get_attribute("open") is not None
    assert blank.locator("pre").evaluate("node => node.scrollTop") == 120
    expect(blank.get_by_role("button", name="press")).to_be_focused()


def test_details_that_the_person_closed_stay_closed(blank: Page) -> None:
    _show(blank, "<details open><summary>more</summary>one</details>")
    blank.get_by_text("more").click()
    _show(blank, "<details open><summary>more</summary>two</details>")
    assert blank.locator("details").get_attribute("open") is None


def test_what_was_typed_and_chosen_survives_an_update(blank: Page) -> None:
    body = (
        '<label data-key="n">Name<input value="" placeholder="{0}"></label>'
        "<select><option>a</option><option>b</option></select><p>{0}</p>"
    )
    _show(blank, body.format("one"))
    blank.get_by_label("Name").press_sequentially("typed")
    blank.get_by_role("combobox").select_option("b")
    blank.get_by_label("Name").focus()
    blank.get_by_label("Name").evaluate("field => field.setSelectionRange(2, 4)")
    _show(blank, "<h2>new above</h2>" + body.format("two"))
    expect(blank.locator("p")).to_have_text("two")
    expect(blank.get_by_label("Name")).to_have_value("typed")
    expect(blank.get_by_label("Name")).to_be_focused()
    assert blank.get_by_label("Name").evaluate("field => [field.selectionStart, field.selectionEnd]") == [2, 4]
    expect(blank.get_by_role("combobox")).to_have_value("b")


def test_what_the_browser_writes_itself_stays(blank: Page) -> None:
    body = '<time data-s="5"></time><b data-live="step"></b><i data-template="of {{steps}}"></i><u>{0}</u>'
    _show(blank, body.format("one"))
    blank.evaluate("for (const node of document.querySelectorAll('time, b, i')) node.textContent = 'ours'")
    _show(blank, body.format("two"))
    assert blank.locator("#root").inner_text().split() == ["ours" * 3 + "two"]


def test_an_open_menu_stays_open_through_an_update(blank: Page) -> None:
    body = '<button>{0}</button><div id="m" popover="auto"><button>Go</button></div>'
    _show(blank, body.format("one"))
    blank.evaluate("document.querySelector('#m').showPopover()")
    _show(blank, body.format("two"))
    assert blank.locator("#m").evaluate("menu => menu.matches(':popover-open')")
