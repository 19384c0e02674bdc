"""A page that comes back or is left in the middle: it hears whole pages only, and asks for nothing afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection

from relight_app.server.sessions import drop_late_fragments, drop_undelivered
from tests.app.served_dashboard import ServedDashboard
from tests.event_loop import run_async

_PAGE = """
import time
from pathlib import Path
import streamlit as st

folder = Path({folder!r})
st.text("the first half")
(folder / "begun").touch()
try:
    while not (folder / "gate").exists():
        time.sleep(0.01)
    st.text("the second half")
    (folder / "whole").touch()
finally:
    (folder / "ended").touch()
"""


@asynccontextmanager
async def _connect(served: ServedDashboard, *, session: str = "") -> AsyncIterator[ClientConnection]:
    """A page's connection, as Streamlit's frontend opens it: with the id of its session when it had one."""
    subprotocols = ["streamlit", "xsrf", session] if session else ["streamlit", "xsrf"]
    with served.client() as owner:
        cookie = "; ".join(f"{name}={value}" for name, value in owner.cookies.items())
    async with websockets.connect(
        f"ws://127.0.0.1:{served.port}/_stcore/stream",
        origin=websockets.Origin(served.site),
        additional_headers={"Cookie": cookie},
        subprotocols=[websockets.Subprotocol(part) for part in subprotocols],
    ) as connection:
        yield connection


async def _ask_for_the_page(connection: ClientConnection) -> None:
    message = BackMsg()
    message.rerun_script.query_string = ""
    await connection.send(message.SerializeToString())


async def _hear(connection: ClientConnection, until: str) -> list[ForwardMsg]:
    """All messages up to the first of that type."""
    heard: list[ForwardMsg] = []
    while not heard or heard[-1].WhichOneof("type") != until:
        data = await asyncio.wait_for(connection.recv(), 30)
        assert isinstance(data, bytes)
        heard.append(ForwardMsg.FromString(data))
    return heard


async def _wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{path.name} did not come")


def _sessions(messages: list[ForwardMsg]) -> list[str]:
    """The session's id, once for each run of the page that began."""
    begun = [message.new_session for message in messages if message.WhichOneof("type") == "new_session"]
    return [one.initialize.session_id for one in begun]


def _texts(messages: list[ForwardMsg]) -> list[str]:
    return [m.delta.new_element.text.body for m in messages if m.WhichOneof("type") == "delta"]


@pytest.mark.processes
def test_half_a_page_that_was_not_heard_is_not_told_as_a_whole_one(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(_PAGE.format(folder=str(tmp_path)))

    async def leave_and_come_back(served: ServedDashboard) -> list[ForwardMsg]:
        async with _connect(served) as connection:
            await _ask_for_the_page(connection)
            (session,) = _sessions(await _hear(connection, "new_session"))
            await _wait_for(tmp_path / "begun")
        # The page's run ends here, where it is: its browser is gone.
        (tmp_path / "gate").touch()
        await _wait_for(tmp_path / "ended")
        await asyncio.sleep(0.5)  # Streamlit's own loop hears of the end a moment later
        assert not (tmp_path / "whole").exists(), "the run of the page went on without its browser"
        async with _connect(served, session=session) as connection:
            await asyncio.sleep(0.2)  # what was left over would be told here
            await _ask_for_the_page(connection)
            heard = await _hear(connection, "script_finished")
            assert _sessions(heard) == [session], "the same session goes on, with one run of the page"
            return heard

    with ServedDashboard(tmp_path / "runs", script=script) as served:
        heard = run_async(leave_and_come_back(served))
    assert _texts(heard) == ["the first half", "the second half"]


def test_another_streamlit_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    runtime: Any = SimpleNamespace(other=1)
    drop_undelivered(runtime)
    assert vars(runtime) == {"other": 1}
    assert "may lose their zoom" in caplog.text


@pytest.mark.parametrize(
    ("fragment", "page", "running", "heard"),
    [
        ("list", "runs", "run", False),
        ("list", "runs", "runs", True),
        ("list", "runs", "", True),  # the first page is known by its name alone
        ("list", "", "run", True),
        ("", "runs", "run", True),  # a click on a link
    ],
)
def test_only_the_page_that_runs_may_redraw_a_part_of_itself(
    fragment: str, page: str, running: str, heard: bool
) -> None:
    got: list[tuple[Any, ...]] = []
    session = SimpleNamespace(_pages_manager=SimpleNamespace(intended_page_script_hash=running))
    runtime: Any = SimpleNamespace(
        handle_backmsg=lambda *given, client: got.append((*given, client)),
        _session_mgr=SimpleNamespace(get_active_session_info=lambda _: SimpleNamespace(session=session)),
    )
    drop_late_fragments(runtime)
    message = BackMsg()
    message.rerun_script.fragment_id = fragment
    message.rerun_script.page_script_hash = page
    runtime.handle_backmsg("session", message, client="browser")
    assert got == ([("session", message, "browser")] if heard else [])


def test_what_an_unknown_session_says_is_passed_on() -> None:
    got: list[Any] = []
    runtime: Any = SimpleNamespace(handle_backmsg=lambda _, msg: got.append(msg))
    drop_late_fragments(runtime)
    message = BackMsg()
    message.rerun_script.fragment_id = "list"
    message.rerun_script.page_script_hash = "runs"
    runtime.handle_backmsg("session", message)
    assert got == [message]
