"""Registers our browser code as Streamlit components."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

_IMPORT_MODULE = """
const RETRY_MS = 1000

// A server that dies while a page loads leaves the page without its modules: fetch them once it is back.
async function load(address, parentElement) {
  for (;;) {
    try {
      return await import(address)
    } catch (error) {
      if (!(error instanceof TypeError) || !parentElement.isConnected) throw error
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

    def __init__(self, name: str, *, element: str, style: Path, isolate_styles: bool = False) -> None:
        """`element` is the class of the one element that the module fills."""
        self._name = name
        self.element = element
        self.style = style
        self.isolate_styles = isolate_styles
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
            html=f'\n<div class="{self.element}"></div>\n',
            css=self.style.read_text(encoding="utf-8"),
            js=_IMPORT_MODULE,
            isolate_styles=self.isolate_styles,
        )
        return mount


@dataclass(frozen=True)
class Mount:
    """A component on a page: Streamlit mounts it, and the browser shows it before Streamlit has started."""

    component: BrowserComponent
    key: str
    data: dict[str, Any]

    def show(self) -> None:
        """Put it on the page that Streamlit draws."""
        self.component.mount(key=component_key(self.key), data=self.data)
