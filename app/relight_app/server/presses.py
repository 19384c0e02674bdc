"""Presses that nobody has heard yet, so that none is lost to what the browser asks for right after it.

Streamlit (1.67) breaks a rerun off as soon as the next one is asked for. When that comes before the callbacks of the
first were called, the press that asked for the first is forgotten: of 30 presses that another widget followed in the
same moment it forgot 30. On a page that is live something follows all the time. So a press goes along with every
request until it was claimed, and whoever is called because of it acts only when the claim is granted: once.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamlit.runtime.scriptrunner import get_script_run_ctx

if TYPE_CHECKING:
    from streamlit.proto.ClientState_pb2 import ClientState
    from streamlit.proto.WidgetStates_pb2 import WidgetState

_CARRIED_S = 5.0
"""A press whose widget is gone for so long is not brought up again."""
_KNOWN_S = 600.0


@dataclass(frozen=True)
class _Press:
    state: WidgetState
    time_s: float


class Presses:
    """The presses of all sessions, by session and by the key of the button."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, _Press]] = {}
        self._expected: set[str] = set()
        self._open = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """From now on `carry` hears of everything that browsers ask for; before, every claim is granted."""
        self._open = True

    def expect(self, key: str) -> None:
        """The button of that key claims its presses."""
        self._expected.add(key)

    def carry(self, session: str, asked: ClientState) -> None:
        """Note the presses in a request, and add to it those from before that nobody has claimed yet."""
        now = time.monotonic()
        with self._lock:
            self._forget_old(now)
            waiting = self._waiting.setdefault(session, {})
            for state in asked.widget_states.widgets:
                if _is_press(state):
                    waiting[key_of(state.id)] = _Press(_copy(state), now)
            if asked.fragment_id:
                return  # it interrupts nothing
            given = {key_of(state.id) for state in asked.widget_states.widgets}
            for key, press in waiting.items():
                if key in self._expected and key not in given and now - press.time_s < _CARRIED_S:
                    asked.widget_states.widgets.add().CopyFrom(press.state)

    def claim(self, key: str) -> bool:
        """Whether the press of the button that this session was called for has not been acted on yet."""
        context = get_script_run_ctx(suppress_warning=True)
        if not self._open or context is None:
            return True
        with self._lock:
            return self._waiting.get(context.session_id, {}).pop(key, None) is not None

    def _forget_old(self, now: float) -> None:
        for session, waiting in list(self._waiting.items()):
            for key, press in list(waiting.items()):
                if now - press.time_s > _KNOWN_S:
                    del waiting[key]
            if not waiting:
                del self._waiting[session]


presses = Presses()
"""Those of this server."""


def has_press(asked: ClientState) -> bool:
    """Whether a button was pressed."""
    return any(_is_press(state) for state in asked.widget_states.widgets)


def key_of(widget_id: str) -> str:
    """The key in Streamlit's id of a widget, `$$ID-<hash>-<key>`, or of a component's events, `…__events`."""
    return widget_id.split("-", 2)[-1].removesuffix("__events")


def _is_press(state: WidgetState) -> bool:
    kind = state.WhichOneof("value")
    return (kind == "trigger_value" and state.trigger_value) or (
        kind == "json_trigger_value" and bool(state.json_trigger_value)
    )


def _copy(state: WidgetState) -> WidgetState:
    copy = type(state)()
    copy.CopyFrom(state)
    return copy
