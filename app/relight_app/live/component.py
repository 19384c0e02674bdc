"""Registers our browser code as Streamlit components."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

_IMPORT_MODULE = """
export default function (component) {
  const { parentElement } = component
  const module = import(new URL(component.data.module, window.location.origin))
  module.then(({ show }) => show(component))
  return () => {
    // Streamlit (1.67) also calls this when new data arrived before the component was first drawn. Then it must stay.
    if (!parentElement.isConnected) module.then(({ remove }) => remove({ parentElement }))
  }
}
"""
_NOT_REGISTERED = "bidi-component-not-registered"
_RESERVED = "__"
"""Streamlit joins a key and an event by this, and refuses keys that contain it."""


def component_key(key: str) -> str:
    """Return a key that Streamlit accepts: names of metrics and runs may contain anything."""
    if _RESERVED not in key:
        return key
    return f"{key.replace('_', '-')}-{zlib.crc32(key.encode(errors='surrogatepass')):08x}"


class BrowserComponent:
    """A component made of HTML, a style sheet and JavaScript.

    Its JavaScript is the module at the address `data["module"]`, which exports `show(component)` and
    `remove({parentElement})`. The browser loads such a module once per tab and caches it, and all components of a tab
    share one event stream.
    """

    def __init__(self, name: str, *, html: str, style: Path, isolate_styles: bool = False) -> None:
        self._name = name
        self._html = html
        self._style = style
        self._isolate_styles = isolate_styles
        self._mount: Callable[..., Any] | None = None

    def mount(self, **arguments: Any) -> Any:
        """Put the component on the page and return Streamlit's result."""
        if self._mount is None:
            self._mount = self._register()
        try:
            return self._mount(**arguments)
        except StreamlitAPIException as error:
            # Each Streamlit runtime has its own registry, and a test process starts several runtimes.
            if getattr(error, "error_id", None) != _NOT_REGISTERED:
                raise
            self._mount = self._register()
            return self._mount(**arguments)

    def _register(self) -> Callable[..., Any]:
        mount: Callable[..., Any] = st.components.v2.component(
            self._name,
            html=self._html,
            css=self._style.read_text(encoding="utf-8"),
            js=_IMPORT_MODULE,
            isolate_styles=self._isolate_styles,
        )
        return mount
