"""How a browser module of ours becomes a Streamlit component.

The component itself is a few lines that import the module from the dashboard's own server. So the code is loaded once a
tab and cached, not sent with each rerun, and all components of a tab share its one event stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

_SHIM = """
export default function (component) {
  const { parentElement } = component
  const module = import(new URL(component.data.module, window.location.origin))
  module.then(({ show }) => show(component))
  return () => {
    // Streamlit (1.67) calls this as well when new data came before the component was first drawn: then it stays.
    if (!parentElement.isConnected) module.then(({ remove }) => remove({ parentElement }))
  }
}
"""
_NOT_REGISTERED = "bidi-component-not-registered"


class BrowserComponent:
    """A component whose JavaScript is a module with `show(component)` and `remove({parentElement})`."""

    def __init__(self, name: str, *, html: str, css: str) -> None:
        self._name = name
        self._html = html
        self._css = css
        self._mount: Callable[..., Any] | None = None

    def mount(self, *, data: dict[str, Any], key: str, on_changed: Callable[[], None] | None = None) -> Any:
        """Put it on the page; returns Streamlit's result. `data["module"]` is the module's address."""
        if self._mount is None:
            self._mount = self._register()
        arguments: dict[str, Any] = {"data": data, "key": key}
        if on_changed is not None:
            arguments["on_changed_change"] = on_changed
        try:
            return self._mount(**arguments)
        except StreamlitAPIException as error:
            # Another runtime than the one that it was registered with: a test's.
            if getattr(error, "error_id", None) != _NOT_REGISTERED:
                raise
            self._mount = self._register()
            return self._mount(**arguments)

    def _register(self) -> Callable[..., Any]:
        mount: Callable[..., Any] = st.components.v2.component(
            self._name, html=self._html, css=self._css, js=_SHIM, isolate_styles=False
        )
        return mount
