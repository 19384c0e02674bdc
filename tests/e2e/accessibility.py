"""Runs axe-core in a page, injected from `vendor/` so that nothing is loaded from other sites."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, cast

from playwright.sync_api import Locator, Page

_AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
_MOST_TABS = 150

EXCLUDED: list[list[str]] = []
"""Selectors of Streamlit's own markup that violates a rule, each with its reason. Currently empty."""


def find_violations(page: Page) -> list[str]:
    """Return the violations that axe-core finds on the page now, one line per element. Includes shadow roots."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(_read_axe())
    found: list[dict[str, Any]] = page.evaluate(
        "exclude => axe.run({ exclude }, { resultTypes: ['violations'] }).then(({ violations }) => violations)",
        EXCLUDED,
    )
    return [
        f"{violation['impact']}: {violation['id']} ({violation['help']}): {node['html'][:200]}"
        for violation in found
        for node in violation["nodes"]
    ]


def tab_to(page: Page, target: Locator) -> None:
    """Press Tab from the top of the page until `target` has a visible focus."""
    page.evaluate("() => { document.activeElement?.blur(); getSelection().removeAllRanges() }")
    for _ in range(_MOST_TABS):
        page.keyboard.press("Tab")
        if cast(bool, target.evaluate("element => element.matches(':focus-visible')")):
            return
    raise AssertionError(f"{target} is not reached within {_MOST_TABS} presses of Tab")


@cache
def _read_axe() -> str:
    return _AXE.read_text(encoding="utf-8")
