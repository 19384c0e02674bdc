"""The connections between the ranks: a rank that has gone, or whose machine does not answer any more, is noticed.

The death of a process closes its connections. A machine that loses its power or its network closes nothing, and a rank
that waits for it would wait for a quarter of an hour, or for a day. So the kernel is asked to try the connections of
the ranks' own group, and to give one up after `SILENCE_S`. It answers on behalf of a process that is slow, or stopped.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping

SILENCE_S = 60
"""Without an answer for so long, a machine is lost. torchrun's own agents wait for 15 s."""
_TRY_AFTER_S, _TRY_EVERY_S = 15, 5
GRACE_S = 10.0
"""For the training to notice a lost connection itself, with an error of its own."""
_LOOK_S = 0.5


def list_sockets() -> frozenset[int]:
    """Return what identifies each socket that this process has open."""
    return frozenset(inode for _, inode in _find_sockets())


class RankConnections:
    """The connections of this rank's group, by their addresses."""

    def __init__(self, *, before: frozenset[int]) -> None:
        """Take the connections that were made since `list_sockets` returned `before`."""
        self._sockets: dict[str, socket.socket] = {}
        self._peers: dict[str, str] = {}
        for descriptor, inode in _find_sockets():
            if inode in before:
                continue
            with contextlib.suppress(OSError):
                taken = socket.socket(fileno=os.dup(descriptor))
                if taken.type != socket.SOCK_STREAM or taken.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                self._sockets[_name(taken.getpeername())] = taken
        self.own = [_name(each.getsockname()) for each in self._sockets.values()]
        """The addresses by which the other ranks know these connections."""

    def keep(self, names: Mapping[str, str]) -> None:
        """Watch the connections to the addresses in `names`, whose values say what is there; forget the others."""
        for address in [address for address in self._sockets if address not in names]:
            self._sockets.pop(address).close()
        self._peers = {address: names[address] for address in self._sockets}
        for each in self._sockets.values():
            _try_often(each)

    def find_lost(self) -> str:
        """Say which connection is lost; "" if none is."""
        poller = select.poll()
        for each in self._sockets.values():
            poller.register(each, getattr(select, "POLLRDHUP", 0))
        lost = {descriptor for descriptor, _ in poller.poll(0)}
        return next((self._peers[address] for address, each in self._sockets.items() if each.fileno() in lost), "")

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """Call `on_lost` in another thread when a connection has been lost for `GRACE_S`."""
        threading.Thread(target=self._watch, args=(on_lost,), daemon=True, name="relight-ranks").start()

    def close(self) -> None:
        """Stop watching: a connection that ends now has served its purpose."""
        for each in self._sockets.values():
            each.close()
        self._sockets = {}

    def _watch(self, on_lost: Callable[[str], None]) -> None:
        while self._sockets:
            time.sleep(_LOOK_S)
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # closed by the main thread just now
                if self.find_lost():
                    time.sleep(GRACE_S)
                    if lost := self.find_lost():
                        on_lost(lost)


def _find_sockets() -> list[tuple[int, int]]:
    """Return descriptor and inode of each open socket; nothing where the kernel has no list of them."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            with contextlib.suppress(OSError):
                about = os.fstat(int(name))
                if stat.S_ISSOCK(about.st_mode):
                    found.append((int(name), about.st_ino))
    return found


def _name(address: tuple[str, int]) -> str:
    return f"{address[0]} {address[1]}"


def _try_often(connection: socket.socket) -> None:
    """Let the kernel give up the connection when it has got no answer for `SILENCE_S`."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _TRY_AFTER_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _TRY_EVERY_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, (SILENCE_S - _TRY_AFTER_S) // _TRY_EVERY_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_S * 1000)
