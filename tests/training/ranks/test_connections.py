"""Lost connections between ranks."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from relight.training.ranks import connections
from relight.training.ranks.connections import RankConnections, list_sockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the sockets of a process")


@pytest.fixture
def pair() -> Iterator[tuple[RankConnections, socket.socket, str]]:
    """The connections of one end, the other end, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = list_sockets()
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        taken = RankConnections(before=before)
        yield taken, theirs, "{} {}".format(*theirs.getsockname()[:2])
        taken.close()
        ours.close()
        theirs.close()


def test_only_named_connections_are_kept_and_tried_by_the_kernel(
    pair: tuple[RankConnections, socket.socket, str],
) -> None:
    taken, theirs, address = pair
    assert len(taken.own) == 2  # both ends are in this process
    taken.keep({address: "rank 1 on n2"})
    (kept,) = taken._sockets.values()
    assert kept.getpeername() == theirs.getsockname()
    assert kept.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
    assert taken.find_lost() == ""


def test_a_closed_connection_is_told_once_the_training_has_had_time_to_notice(
    pair: tuple[RankConnections, socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GRACE_S", 0.05)
    taken, theirs, address = pair
    taken.keep({address: "rank 1 on n2"})
    told = threading.Event()
    lost: list[str] = []

    def note(name: str) -> None:
        lost.append(name)
        told.set()

    taken.watch(note)
    theirs.sendall(b"a message")
    assert not told.wait(0.7)
    theirs.close()
    assert told.wait(30)
    assert lost[0] == "rank 1 on n2"
