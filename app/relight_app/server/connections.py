"""Connections that no stranger can exhaust: a person with the cookie always gets one.

uvicorn has no time limit for a request's head, so a client that sends nothing, or one byte a minute, keeps a connection
for as long as it likes, and a few hundred of them use up the process's files. Here a head must be complete in time. A
connection is a stranger's until the guard has admitted one of its requests. There may be only so many strangers: a new
one takes the place of the oldest.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h11
from starlette.types import Scope
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

_ADMITTED = "relight_admitted"
KEPT_S = 65
"""How long a person's connection is kept between two requests: longer than browsers and proxies want it."""

ACCEPTED_AT_ONCE = 32
"""The event loop accepts this many connections before it reads from any: all of them are strangers at that moment."""
WAITING = 1024
"""How many connections the system holds back for us in the meantime."""


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections the server has at most, how many of them strangers, and the time for a request's head."""

    most: int
    most_strangers: int
    head_s: float = 10.0
    grace_s: float = 2.0
    """Until then, a stranger gives up its place only if there are too many connections: it may be a slow person."""


def choose_limits() -> ConnectionLimits:
    """Choose limits that leave enough of the process's open files for everything else."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 65_536 if soft == resource.RLIM_INFINITY else soft
    return ConnectionLimits(most=min(4096, files // 2), most_strangers=min(256, files // 4))


def note_admitted(scope: Scope) -> None:
    """Note that the guard has admitted this request: its connection is no longer a stranger's."""
    admitted: Callable[[], None] | None = scope.get("state", {}).get(_ADMITTED)
    if admitted is not None:
        admitted()


def bounded_connections(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """Return the class of the connections of one server, for uvicorn's option `http`."""
    strangers: dict[_BoundedConnection, None] = {}

    class Connection(_BoundedConnection):
        def __init__(
            self,
            config: Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, {**app_state, _ADMITTED: self.admit}, _loop)
            self.limits, self.strangers = limits, strangers

    return Connection


class _BoundedConnection(H11Protocol):
    limits: ConnectionLimits
    strangers: dict[_BoundedConnection, None]
    """The strangers of the whole server, the oldest first."""
    _deadline: asyncio.TimerHandle | None = None
    _upgraded = False
    _made_s: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.strangers[self] = None
        self._wait_for_head()
        self._made_s = self.loop.time()
        if len(self.connections) > self.limits.most:
            next(iter(self.strangers)).drop()
        while len(self.strangers) > self.limits.most_strangers:
            oldest = next(iter(self.strangers))
            if self._made_s - oldest._made_s < self.limits.grace_s:
                break
            oldest.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_as_stranger()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._deadline is None and not self._is_answering() and not self._upgraded:
            self._wait_for_head()  # not again with each byte

    def handle_events(self) -> None:
        super().handle_events()
        if self._is_answering():
            self._stop_waiting()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._upgraded = True
        self._end_as_stranger()
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        if self in self.strangers:
            self._wait_for_head()
        super().on_response_complete()

    def admit(self) -> None:
        """Count this connection as a person's."""
        self.strangers.pop(self, None)

    def drop(self) -> None:
        """Close the connection at once."""
        self._end_as_stranger()
        self.transport.abort()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(self.limits.head_s, self._give_up)

    def _give_up(self) -> None:
        if self in self.strangers:
            self.drop()
        else:
            self.transport.close()  # a slow person may still be receiving the last response

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_as_stranger(self) -> None:
        self._stop_waiting()
        self.strangers.pop(self, None)
