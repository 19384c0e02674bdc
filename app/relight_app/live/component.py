"""Our browser code on a page: what the server sends before Streamlit has started, and what Streamlit then mounts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class BrowserComponent:
    """A component made of one element, a style sheet and JavaScript.

    Its JavaScript is the module at the address `data["module"]`, which exports `show(component)` and
    `remove({parentElement})`. The browser loads such a module once per tab and caches it, and all components of a tab
    share one event stream.
    """

    name: str
    element: str
    """The class of the one element that the module fills."""
    style: Path
    isolate_styles: bool = False


@dataclass(frozen=True)
class Mount:
    """A component on a page: Streamlit mounts it, and the browser shows it before Streamlit has started."""

    component: BrowserComponent
    key: str
    data: dict[str, Any]
