"""What a part is: a name, a function that builds it, and what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from relight_app.engine import Engine
from relight_app.markup import Markup

Query = Mapping[str, str]
"""The query of the page's address: {"id": "digits-k3f9", "tab": "log"}."""
Topic = Literal["runs", "life", "files", "log", "jobs", "machine"]
"""What the event stream reports as changed; see `relight_app.server.topics`."""


@dataclass(frozen=True)
class Part:
    """One live area. The browser asks for it again when one of its topics changes."""

    build: Callable[[Engine, Query], Markup]
    topics: tuple[Topic, ...] = ()
