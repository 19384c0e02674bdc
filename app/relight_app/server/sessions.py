"""What Streamlit's sessions must neither tell a page nor hear from it.

A browser that is lost ends the run of the page that was under way. Streamlit (1.67) keeps what that half of a page had
to say and tells it, as a whole page, to the browser that comes back: the browser then takes the other half away, charts
and their zoom with it, and now and then it fails altogether. Such a rest is dropped here; the page is drawn anew.

A part of a page that redraws itself every second may ask once more while the next page is on its way. Streamlit takes
that for a wish to be on the old page again, where the part is unknown by now: the browser is left with a blank page.
Such a wish is dropped here, and so is the press of a button of a page that is being left. All other presses are kept
until somebody has heard them (`relight_app.server.presses`).
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
    """Streamlit's storage of the sessions of lost browsers (its `SessionStorage`), without what was not delivered."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def get(self, session_id: str) -> SessionInfo | None:
        """The session, which has nothing to say yet; None when there is none."""
        found: SessionInfo | None = self._storage.get(session_id)
        if found is not None:
            found.session.flush_browser_queue()
        return found

    def save(self, session_info: SessionInfo) -> None:
        """Keep the session of a browser that was lost."""
        self._storage.save(session_info)

    def delete(self, session_id: str) -> None:
        """Forget that session."""
        self._storage.delete(session_id)

    def list(self) -> list[SessionInfo]:
        """All that are kept."""
        kept: list[SessionInfo] = self._storage.list()
        return kept


def drop_undelivered(runtime: Runtime) -> None:
    """Let sessions of this runtime come back without what their browser did not hear."""
    manager: Any = getattr(runtime, "_session_mgr", None)
    storage = getattr(manager, "_session_storage", None)
    if storage is None:  # another Streamlit; its pages work, but may flicker when a connection comes back
        _log.warning("Streamlit keeps its sessions elsewhere: pages may lose their zoom with their connection.")
        return
    manager._session_storage = FreshSessions(storage)


def hear_presses(runtime: Runtime, presses: Presses) -> None:
    """Let no press be lost, and no page of this runtime do anything once another page is on its way."""
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
    # The page that runs now; empty while it is the first one, which is known by its name alone.
    pages = getattr(found.session, "_pages_manager", None) if found is not None else None
    current = getattr(pages, "intended_page_script_hash", None)
    return bool(current) and current != asked.page_script_hash
