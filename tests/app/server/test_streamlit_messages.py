"""What Streamlit sends over its WebSocket when a page is opened."""

from __future__ import annotations

import asyncio

import pytest
import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from tests.app.served_dashboard import ServedDashboard


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> list[ForwardMsg]:
    """All messages of the start page."""
    with ServedDashboard(tmp_path_factory.mktemp("runs")) as served:
        return asyncio.run(_open_page(served))


async def _open_page(served: ServedDashboard) -> list[ForwardMsg]:
    with served.client() as client:
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    question = BackMsg()
    question.rerun_script.query_string = ""
    heard: list[ForwardMsg] = []
    async with websockets.connect(
        f"ws://127.0.0.1:{served.port}/_stcore/stream",
        origin=websockets.Origin(served.site),
        additional_headers={"Cookie": cookie},
        subprotocols=[websockets.Subprotocol("streamlit"), websockets.Subprotocol("xsrf")],
    ) as connection:
        await connection.send(question.SerializeToString())
        while not heard or heard[-1].WhichOneof("type") != "script_finished":
            data = await asyncio.wait_for(connection.recv(), 60)
            assert isinstance(data, bytes)
            heard.append(ForwardMsg.FromString(data))
    return heard


def test_the_browser_keeps_no_message_that_streamlit_could_refer_to(messages: list[ForwardMsg]) -> None:
    sizes = [message.ByteSize() for message in messages if message.WhichOneof("type") == "delta"]
    assert max(sizes) > 10_000, "Streamlit would have the browser cache this one"
    assert not any(message.metadata.cacheable for message in messages)


def test_the_messages_of_a_page_are_small(messages: list[ForwardMsg]) -> None:
    assert sum(message.ByteSize() for message in messages) < 80_000
