"""A relay between a browser and the dashboard, on a separate port, that a test can cut."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from types import TracebackType


class Wire:
    """A context manager that forwards connections to `port` on this machine until it is cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._whole = True
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        wire = self

        class Relay(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                wire._carry(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self.cut()
        self._server.server_close()

    @property
    def port(self) -> int:
        """The port for the browser."""
        return int(self._server.server_address[1])

    def cut(self) -> None:
        """Break all connections, and accept no new ones until `mend`."""
        with self._lock:
            self._whole = False
            for end in self._ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Forward connections again."""
        with self._lock:
            self._whole = True

    def _carry(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            return
        with far:
            with self._lock:
                if not self._whole:
                    return
                self._ends |= {near, far}
            back = threading.Thread(target=_copy, args=(far, near), daemon=True)
            back.start()
            _copy(near, far)
            back.join()
            with self._lock:
                self._ends -= {near, far}


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except OSError:
        pass
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
