"""The pages: their addresses and titles."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import streamlit as st
from streamlit.navigation.page import Page

from relight_app.live.component import Mount
from relight_app.urls import site_path

_ASSETS = Path(__file__).parent / "assets"
_STYLE = Path(__file__).parent / "theme" / "page.css"


@dataclass(frozen=True)
class PageInfo:
    """One page. `relight_app.pages.NAME_page` says what is on it, and `path` is its address."""

    name: str
    path: str
    title: str
    icon: str
    hidden: bool = False


ALIASES = (PageInfo("runs", "runs", "Runs", ":material/stacks:", hidden=True),)
"""Other addresses that people type for a page."""
PAGES: dict[str, PageInfo] = {
    page.name: page
    for page in (
        PageInfo("runs", "", "Runs", ":material/stacks:"),
        PageInfo("launch", "launch", "Launch", ":material/rocket_launch:"),
        PageInfo("machine", "machine", "Machine", ":material/memory:"),
        PageInfo("run", "run", "Run", ":material/monitoring:", hidden=True),
        PageInfo("compare", "compare", "Compare", ":material/compare_arrows:", hidden=True),
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
    return [_build(page) for page in (*PAGES.values(), *ALIASES)]


def list_mounts(page: PageInfo, query: Mapping[str, str]) -> list[Mount]:
    """Return what is on the page with this query, from the top down."""
    mounts: list[Mount] = importlib.import_module(f"relight_app.pages.{page.name}_page").list_mounts(query)
    return mounts


def address(page: str, **query: str) -> str:
    """Return the page's address on this site: "/run?id=digits-k3f9"."""
    path = site_path("/" + PAGES[page].path)
    return f"{path}?{urlencode(query)}" if query else path


def _build(page: PageInfo) -> Page:
    def render() -> None:
        for mount in list_mounts(page, st.query_params.to_dict()):
            mount.show()

    return Page(
        render,
        title=page.title,
        icon=page.icon,
        url_path=page.path or None,
        default=not page.path,
        visibility="hidden" if page.hidden else "visible",
    )
