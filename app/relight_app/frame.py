"""What Streamlit draws: the frame around the pages, and our components in it. Nothing else needs Streamlit."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException
from streamlit.navigation.page import Page

from relight_app.live.component import BrowserComponent, Mount
from relight_app.navigation import ALIASES, PAGES, PageInfo, list_mounts

_ASSETS = Path(__file__).parent / "assets"
_STYLE = Path(__file__).parent / "theme" / "page.css"
_IMPORT_MODULE = """
const RETRY_MS = 1000

// A server that dies while a page loads leaves the page without its modules: fetch them once it is back.
async function load(address, parentElement) {
  for (;;) {
    try {
      return await import(address)
    } catch (error) {
      if (!(error instanceof TypeError)) throw error
      if (!parentElement.isConnected) return new Promise(() => {}) // the page is another one by now
      await new Promise((done) => setTimeout(done, RETRY_MS))
    }
  }
}

export default function (component) {
  const { parentElement } = component
  const address = new URL(component.data.module, window.location.origin)
  const addresses = [address, new URL('first_paint.js', address)]
  const module = Promise.all(addresses.map((address) => load(address, parentElement))).then(
    async ([module, { takeOver }]) => {
      await takeOver(component)
      module.show(component)
      return module
    },
  )
  return () => {
    // Streamlit (1.67) also calls this when new data arrived before the component was first drawn. Then it must stay.
    if (!parentElement.isConnected) module.then(({ remove }) => remove({ parentElement }))
  }
}
"""
_NOT_REGISTERED = "bidi-component-not-registered"
_RESERVED = "__"
"""Streamlit joins a key and an event by this, and refuses keys that contain it."""
_registered: dict[str, Callable[..., Any]] = {}


def set_up_page() -> None:
    """Set up what all pages share: icon, logo, width, and the style rules that a theme cannot express."""
    st.set_page_config(page_title="Relight", page_icon=str(_ASSETS / "icon.svg"), layout="wide")
    st.logo(str(_ASSETS / "logo.svg"), size="large")
    st.html(_STYLE)


def build_pages() -> list[Page]:
    """Return Streamlit's description of every page, the start page first."""
    return [_build(page) for page in (*PAGES.values(), *ALIASES)]


def show(mount: Mount) -> None:
    """Put a component on the page that Streamlit draws."""
    name = mount.component.name
    if name not in _registered:
        _registered[name] = _register(mount.component)
    arguments: dict[str, Any] = {"key": component_key(mount.key), "data": mount.data}
    try:
        _registered[name](**arguments)
    except StreamlitAPIException as error:
        # Each Streamlit runtime has its own registry, and a test process starts several runtimes.
        if getattr(error, "error_id", None) != _NOT_REGISTERED:
            raise
        _registered[name] = _register(mount.component)
        _registered[name](**arguments)


def component_key(key: str) -> str:
    """Return a key that Streamlit accepts: names of metrics and runs may contain anything."""
    if _RESERVED not in key:
        return key
    return f"{key.replace('_', '-')}-{zlib.crc32(key.encode(errors='surrogatepass')):08x}"


def _register(component: BrowserComponent) -> Callable[..., Any]:
    mount: Callable[..., Any] = st.components.v2.component(
        component.name,
        html=f'\n<div class="{component.element}"></div>\n',
        css=component.style.read_text(encoding="utf-8"),
        js=_IMPORT_MODULE,
        isolate_styles=component.isolate_styles,
    )
    return mount


def _build(page: PageInfo) -> Page:
    def render() -> None:
        for mount in list_mounts(page, st.query_params.to_dict()):
            show(mount)

    return Page(
        render,
        title=page.title,
        icon=page.icon,
        url_path=page.path or None,
        default=not page.path,
        visibility="hidden" if page.hidden else "visible",
    )
