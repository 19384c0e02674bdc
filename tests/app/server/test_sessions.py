"""A page that reconnects gets only complete pages, and a page that the user leaves cannot request anything more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from relight_app.server.presses import Presses
from relight_app.server.sessions import drop_undelivered, hear_presses
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.page_socket import ask_for_the_page, connect, hear, sessions, texts
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


async def _wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{path.name} did not come")


@pytest.mark.processes
def test_a_half_drawn_page_is_not_delivered_as_a_whole_one(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(_PAGE.format(folder=str(tmp_path)))

    async def leave_and_come_back(served: ServedDashboard) -> list[ForwardMsg]:
        async with connect(served) as connection:
            await ask_for_the_page(connection)
            (session,) = sessions(await hear(connection, "new_session"))
            await _wait_for(tmp_path / "begun")
        # The server aborts the drawing of the page here, because its browser is gone.
        (tmp_path / "gate").touch()
        await _wait_for(tmp_path / "ended")
        await asyncio.sleep(0.5)  # Streamlit's own loop notices the end a moment later
        assert not (tmp_path / "whole").exists(), "the page was drawn to its end without its browser"
        async with connect(served, session=session) as connection:
            await asyncio.sleep(0.2)  # undelivered messages would arrive here
            await ask_for_the_page(connection)
            heard = await hear(connection, "script_finished")
            assert sessions(heard) == [session], "the same session continues, with one run of the page"
            return heard

    with ServedDashboard(tmp_path / "runs", script=script) as served:
        heard = run_async(leave_and_come_back(served))
    assert texts(heard) == ["the first half", "the second half"]


def test_an_unknown_version_of_streamlit_is_left_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    runtime: Any = SimpleNamespace(other=1)
    drop_undelivered(runtime)
    assert vars(runtime) == {"other": 1}
    assert "may lose their zoom" in caplog.text


@pytest.mark.parametrize(
    ("asked", "page", "running", "heard"),
    [
        ("part", "runs", "run", False),
        ("part", "runs", "runs", True),
        ("part", "runs", "", True),  # Streamlit identifies the first page by its name alone
        ("part", "", "run", True),
        ("press", "runs", "run", False),
        ("press", "runs", "runs", True),
        ("link", "runs", "run", True),
    ],
)
def test_only_the_current_page_may_rerun_a_fragment_or_have_its_buttons_pressed(
    asked: str, page: str, running: str, heard: bool
) -> None:
    got: list[tuple[Any, ...]] = []
    session = SimpleNamespace(_pages_manager=SimpleNamespace(intended_page_script_hash=running))
    runtime: Any = SimpleNamespace(
        handle_backmsg=lambda *given, client: got.append((*given, client)),
        _session_mgr=SimpleNamespace(get_active_session_info=lambda _: SimpleNamespace(session=session)),
    )
    hear_presses(runtime, Presses())
    message = BackMsg()
    message.rerun_script.page_script_hash = page
    if asked == "part":
        message.rerun_script.fragment_id = "list"
    if asked == "press":
        message.rerun_script.widget_states.widgets.add(id="$$ID-1f-launch", trigger_value=True)
    runtime.handle_backmsg("session", message, client="browser")
    assert got == ([("session", message, "browser")] if heard else [])


def test_requests_of_an_unknown_session_are_passed_on() -> None:
    got: list[Any] = []
    runtime: Any = SimpleNamespace(handle_backmsg=lambda _, msg: got.append(msg))
    hear_presses(runtime, Presses())
    message = BackMsg()
    message.rerun_script.fragment_id = "list"
    message.rerun_script.page_script_hash = "runs"
    runtime.handle_backmsg("session", message)
    assert got == [message]
