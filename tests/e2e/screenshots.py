"""Takes the screenshots for README and docs from real runs, if RELIGHT_SCREENSHOTS names a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page

WIDTH, PHONE_WIDTH, HEIGHT = 1440, 390, 900


def takes_screenshots() -> bool:
    """Return whether to take screenshots. If so, the runs have to last long enough."""
    return bool(os.environ.get("RELIGHT_SCREENSHOTS"))


def take_screenshots(page: Page, name: str) -> None:
    """Write NAME-light.png, NAME-dark.png, and NAME-phone.png (390 px wide). Keep the page's size."""
    folder = os.environ.get("RELIGHT_SCREENSHOTS")
    if not folder:
        return
    before = page.viewport_size
    schemes: tuple[Literal["dark", "light"], ...] = ("dark", "light")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        _take(page, Path(folder) / f"{name}-{scheme}.png", width=WIDTH)
    _take(page, Path(folder) / f"{name}-phone.png", width=PHONE_WIDTH)
    if before:
        page.set_viewport_size(before)


def _take(page: Page, path: Path, *, width: int) -> None:
    """Take a screenshot of the whole page. The page scrolls an inner element, so make the window as high as that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.set_viewport_size({"width": width, "height": HEIGHT})
    page.wait_for_timeout(1500)  # charts are redrawn after a change of size or colors
    height = page.evaluate("document.querySelector('[data-testid=stMain]')?.scrollHeight ?? 0")
    page.set_viewport_size({"width": width, "height": max(int(height), HEIGHT)})
    page.wait_for_timeout(1000)
    page.screenshot(path=path)
