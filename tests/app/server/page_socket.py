"""Connects to the dashboard as a page does, without a browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection

from tests.app.served_dashboard import ServedDashboard


@asynccontextmanager
async def connect(served: ServedDashboard, *, session: str = "") -> AsyncIterator[ClientConnection]:
    """Open a connection as Streamlit's frontend does, with the id of the page's earlier session if it had one."""
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


async def ask_for_the_page(connection: ClientConnection, *, pressed: str = "") -> None:
    """Request a rerun; `pressed` is the id of a button."""
    message = BackMsg()
    message.rerun_script.query_string = ""
    if pressed:
        message.rerun_script.widget_states.widgets.add(id=pressed, trigger_value=True)
    await connection.send(message.SerializeToString())


async def hear(connection: ClientConnection, until: str) -> list[ForwardMsg]:
    """Return all messages up to the first one of the given type."""
    heard: list[ForwardMsg] = []
    while not heard or heard[-1].WhichOneof("type") != until:
        data = await asyncio.wait_for(connection.recv(), 30)
        assert isinstance(data, bytes)
        heard.append(ForwardMsg.FromString(data))
    return heard


def sessions(messages: list[ForwardMsg]) -> list[str]:
    """Return the session id of each run of the page that began."""
    begun = [message.new_session for message in messages if message.WhichOneof("type") == "new_session"]
    return [one.initialize.session_id for one in begun]


def texts(messages: list[ForwardMsg]) -> list[str]:
    """Return the texts that were drawn."""
    return [m.delta.new_element.text.body for m in messages if m.WhichOneof("type") == "delta"]


def buttons(messages: list[ForwardMsg]) -> list[str]:
    """Return the ids of the buttons that were drawn."""
    drawn = [m.delta.new_element.button.id for m in messages if m.WhichOneof("type") == "delta"]
    return [one for one in drawn if one]
