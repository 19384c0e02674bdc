"""The pages: their addresses and titles."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from relight_app.live.component import Mount
from relight_app.urls import site_path


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


def list_mounts(page: PageInfo, query: Mapping[str, str]) -> list[Mount]:
    """Return what is on the page with this query, from the top down.

    Each mount says which address it belongs to, so that the browser notices a page that did not follow its address.
    """
    mounts: list[Mount] = importlib.import_module(f"relight_app.pages.{page.name}_page").list_mounts(query)
    place = {"page": page.path, "id": query.get("id", "")}
    return [replace(mount, data=mount.data | place) for mount in mounts]


def address(page: str, **query: str) -> str:
    """Return the page's address on this site: "/run?id=digits-k3f9"."""
    path = site_path("/" + PAGES[page].path)
    return f"{path}?{urlencode(query)}" if query else path
