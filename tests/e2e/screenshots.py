"""Takes the screenshots for README and docs from real runs, if RELIGHT_SCREENSHOTS names a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page

WIDTH, PHONE_WIDTH, WIDE_WIDTH, HEIGHT = 1440, 390, 2560, 900

_WIDER = """() => {
  const roots = [...document.querySelectorAll('*')].map((one) => one.shadowRoot).filter(Boolean)
  const tables = innerWidth < 1000 ? [] : roots.flatMap((root) => [...root.querySelectorAll('.scroll')])
  const main = document.querySelector('[data-testid=stMain]')
  return Math.max(0, ...[main, ...tables].filter(Boolean).map((one) => one.scrollWidth - one.clientWidth))
}"""


def takes_screenshots() -> bool:
    """Return whether to take screenshots. If so, the runs have to last long enough."""
    return bool(os.environ.get("RELIGHT_SCREENSHOTS"))


def take_screenshots(page: Page, name: str) -> None:
    """Write NAME-light.png, NAME-dark.png, and NAME-phone.png (390 px wide). Keep the page's size."""
    folder = os.environ.get("RELIGHT_SCREENSHOTS")
    if folder:
        _take_looks(page, Path(folder), name, {"dark": WIDTH, "light": WIDTH, "phone": PHONE_WIDTH})


def take_every_look(page: Page, folder: Path, name: str) -> list[str]:
    """Take these and NAME-wide.png (2560 px wide) into `folder`; return where the page is wider than the window."""
    return _take_looks(page, folder, name, {"dark": WIDTH, "light": WIDTH, "phone": PHONE_WIDTH, "wide": WIDE_WIDTH})


def _take_looks(page: Page, folder: Path, name: str, looks: dict[str, int]) -> list[str]:
    before = page.viewport_size
    wider = []
    for look, width in looks.items():
        scheme: Literal["dark", "light"] = "dark" if look == "dark" else "light"
        page.emulate_media(color_scheme=scheme)
        _take(page, folder / f"{name}-{look}.png", width=width)
        excess = page.evaluate(_WIDER)
        if excess > 0:
            wider.append(f"{name}-{look}: {excess} px")
    if before:
        page.set_viewport_size(before)
    return wider


def _take(page: Page, path: Path, *, width: int) -> None:
    """Take a screenshot of the whole page. The page scrolls an inner element, so make the window as high as that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.set_viewport_size({"width": width, "height": HEIGHT})
    page.wait_for_timeout(1000)  # charts are redrawn after a change of size or colors
    height = page.evaluate("document.querySelector('[data-testid=stMain]')?.scrollHeight ?? 0")
    page.set_viewport_size({"width": width, "height": max(int(height), HEIGHT)})
    page.wait_for_timeout(1000)
    page.screenshot(path=path)
