"""Drops messages between Streamlit's sessions and browsers that would break a page.

A lost connection aborts the drawing of the page. Streamlit (1.67) keeps the messages of the half-drawn page and sends
them to the reconnecting browser as if they were the whole page. The browser then removes the other half, including
charts and their zoom, and sometimes fails completely. These messages are dropped here, and the page is drawn again.

A fragment that reruns every second may send one more request while the next page is loading. Streamlit takes it for a
request to return to the old page, where the fragment is no longer known, and the browser is left with a blank page.
Such a request is dropped here, and so is the press of a button on a page that is being left. All other presses are kept
until a callback has handled them (`relight_app.server.presses`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from relight_app.server.presses import Presses, has_press

if TYPE_CHECKING:
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ClientState_pb2 import ClientState
    from streamlit.runtime import Runtime
    from streamlit.runtime.session_manager import SessionInfo

_log = logging.getLogger(__name__)


class FreshSessions:
    """Streamlit's storage of disconnected sessions (its `SessionStorage`), without their undelivered messages."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def get(self, session_id: str) -> SessionInfo | None:
        """Return the session without its undelivered messages; None without a session."""
        found: SessionInfo | None = self._storage.get(session_id)
        if found is not None:
            found.session.flush_browser_queue()
        return found

    def save(self, session_info: SessionInfo) -> None:
        """Keep a disconnected session."""
        self._storage.save(session_info)

    def delete(self, session_id: str) -> None:
        """Forget a session."""
        self._storage.delete(session_id)

    def list(self) -> list[SessionInfo]:
        """Return all kept sessions."""
        kept: list[SessionInfo] = self._storage.list()
        return kept


def drop_undelivered(runtime: Runtime) -> None:
    """Make sessions of this runtime reconnect without their undelivered messages."""
    manager: Any = getattr(runtime, "_session_mgr", None)
    storage = getattr(manager, "_session_storage", None)
    if storage is None:  # another version of Streamlit: pages work, but may flicker after a reconnect
        _log.warning(
            "This version of Streamlit stores its sessions elsewhere: charts may lose their zoom after a reconnect."
        )
        return
    manager._session_storage = FreshSessions(storage)


def hear_presses(runtime: Runtime, presses: Presses) -> None:
    """Lose no press, and ignore requests of a page once another page is loading."""
    hear = runtime.handle_backmsg
    presses.open()

    def hear_the_current_page(session_id: str, msg: BackMsg, **further: Any) -> None:
        if msg.WhichOneof("type") == "rerun_script":
            if _is_late(runtime, session_id, msg.rerun_script):
                return
            presses.carry(session_id, msg.rerun_script)
        hear(session_id, msg, **further)

    runtime.handle_backmsg = hear_the_current_page  # type: ignore[method-assign]


def _is_late(runtime: Runtime, session_id: str, asked: ClientState) -> bool:
    if not asked.page_script_hash or not (asked.fragment_id or has_press(asked)):
        return False
    manager: Any = getattr(runtime, "_session_mgr", None)
    found: SessionInfo | None = manager.get_active_session_info(session_id) if manager is not None else None
    # The current page. Empty while it is the first one, which Streamlit identifies by its name alone.
    pages = getattr(found.session, "_pages_manager", None) if found is not None else None
    current = getattr(pages, "intended_page_script_hash", None)
    return bool(current) and current != asked.page_script_hash
