"""Button presses that no callback has handled yet, so that the next request of the browser does not discard them.

Streamlit (1.67) aborts a rerun as soon as the next one is requested. If it has not called the callbacks of the first
one by then, it forgets the press that caused it: of 30 presses that were directly followed by another widget's change,
it forgot 30. On a live page, another request always follows. Therefore each press is added to every further request
until a callback claims it, and a callback acts only if its claim is granted, which happens once.
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
"""A press whose widget has been gone for this long is no longer added to requests."""
_KNOWN_S = 600.0


@dataclass(frozen=True)
class _Press:
    state: WidgetState
    time_s: float


class Presses:
    """The presses of all sessions, by session and by the button's key."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, _Press]] = {}
        self._expected: set[str] = set()
        self._open = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """From now on, `carry` sees all requests of browsers. Until then, every claim is granted."""
        self._open = True

    def expect(self, key: str) -> None:
        """Note that the button with that key claims its presses."""
        self._expected.add(key)

    def carry(self, session: str, asked: ClientState) -> None:
        """Note the presses in a request, and add the earlier ones that have not been claimed."""
        now = time.monotonic()
        with self._lock:
            self._forget_old(now)
            waiting = self._waiting.setdefault(session, {})
            for state in asked.widget_states.widgets:
                if _is_press(state):
                    waiting[key_of(state.id)] = _Press(_copy(state), now)
            if asked.fragment_id:
                return  # a fragment's rerun aborts nothing
            given = {key_of(state.id) for state in asked.widget_states.widgets}
            for key, press in waiting.items():
                if key in self._expected and key not in given and now - press.time_s < _CARRIED_S:
                    asked.widget_states.widgets.add().CopyFrom(press.state)

    def claim(self, key: str) -> bool:
        """Claim the press of a button in this session; True means that the caller must act on it."""
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
"""The presses of this server."""


def has_press(asked: ClientState) -> bool:
    """Return whether the request contains a press."""
    return any(_is_press(state) for state in asked.widget_states.widgets)


def key_of(widget_id: str) -> str:
    """Return the key in a Streamlit widget id, `$$ID-<hash>-<key>` or, for a component, `$$ID-<hash>-<key>__events`."""
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
