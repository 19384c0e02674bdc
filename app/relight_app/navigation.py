"""The pages: their addresses and titles, and navigation between them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlencode, urlsplit

import streamlit as st
from streamlit.navigation.page import Page

from relight_app.browser_session import remembered

_ASSETS = Path(__file__).parent / "assets"
_STYLE = Path(__file__).parent / "theme" / "page.css"
_CURRENT, _WANTED = "page", "wanted page"


@dataclass(frozen=True)
class PageInfo:
    """One page. `relight_app.pages.NAME_page` renders it, and `path` is its address."""

    name: str
    path: str
    title: str
    icon: str
    hidden: bool = False


_ALIASES = (PageInfo("runs", "runs", "Runs", ":material/stacks:", hidden=True),)
"""Other addresses that people type for a page."""
PAGES: dict[str, PageInfo] = {
    page.name: page
    for page in (
        PageInfo("runs", "", "Runs", ":material/stacks:"),
        PageInfo("launch", "launch", "Launch", ":material/rocket_launch:"),
        PageInfo("machine", "machine", "Machine", ":material/memory:"),
        PageInfo("run", "run", "Run", ":material/monitoring:", hidden=True),
        PageInfo("branch", "branch", "Branch", ":material/fork_right:", hidden=True),
    )
}


def set_up_page() -> None:
    """Set up what all pages share: icon, logo, width, and the style rules that a theme cannot express."""
    st.set_page_config(page_title="Relight", page_icon=str(_ASSETS / "icon.svg"), layout="wide")
    st.logo(str(_ASSETS / "logo.svg"), size="large")
    st.html(_STYLE)


def build_pages() -> list[Page]:
    """Return Streamlit's description of every page, the start page first."""
    return [_build(page) for page in (*PAGES.values(), *_ALIASES)]


def leave_for(page: str, **query: str) -> None:
    """Go to `page` when the current page is next drawn, even if that drawing is interrupted. For callbacks."""
    memory = remembered()
    memory[_WANTED] = (memory.get(_CURRENT), page, query)


def follow() -> None:
    """Go where a callback asked to go, unless the person has moved to another page since."""
    memory = remembered()
    wanted: tuple[str | None, str, dict[str, str]] | None = memory.get(_WANTED)
    if wanted is None:
        return
    left, page, query = wanted
    current = memory.get(_CURRENT)
    if current != left or left in (page, None):  # arrived, moved elsewhere, or a page that leads to itself
        memory.pop(_WANTED, None)
    if current == left:
        go_to(page, **query)


def go_to(page: str, **query: str) -> NoReturn:
    """Go to `page` with this query."""
    if urlsplit(st.context.url or "").path == address(page):
        # From one run to another: Streamlit ignores a switch to the page that is already shown.
        st.query_params.from_dict(query)
        st.rerun()
    st.switch_page(_build(PAGES[page]), query_params=query)


def address(page: str, **query: str) -> str:
    """Return the page's address on this site: "/run?id=digits-k3f9"."""
    path = "/" + PAGES[page].path
    return f"{path}?{urlencode(query)}" if query else path


def _build(page: PageInfo) -> Page:
    def render() -> None:
        remembered()[_CURRENT] = page.name
        follow()
        importlib.import_module(f"relight_app.pages.{page.name}_page").render()

    return Page(
        render,
        title=page.title,
        icon=page.icon,
        url_path=page.path or None,
        default=not page.path,
        visibility="hidden" if page.hidden else "visible",
    )
