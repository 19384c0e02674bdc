"""What a part is: a name, a function that builds it, and what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec

from relight.errors import UsageError
from relight_app.actions import Request
from relight_app.engine import Engine
from relight_app.markup import Markup

R = TypeVar("R", bound=Request)
Query = Mapping[str, str]
"""The query of the page's address: {"id": "digits-k3f9", "tab": "log"}."""
Topic = Literal["runs", "life", "files", "log", "jobs", "machine"]
"""What the event stream reports as changed; see `relight_app.server.topics`."""


def read_request(query: Query, kind: type[R]) -> R:
    """Read the request that a form would send. Raises `UsageError` for one that its action would refuse."""
    try:
        return msgspec.json.decode(query.get("request", "{}").encode(), type=kind, strict=False)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"The form cannot be read: {error}.") from None


@dataclass(frozen=True)
class Part:
    """One live area. The browser asks for it again when one of its topics changes."""

    build: Callable[[Engine, Query], Markup]
    topics: tuple[Topic, ...] = ()
    query: tuple[str, ...] = ()
    """The names in the query that it reads; the address also has those of other parts and of charts."""
