"""What trainer and writer process say to each other, and the socket on which they say it."""

from __future__ import annotations

import select
import socket
import threading
from collections import deque

import msgspec

from relight.checkpoints.retention import RetentionPolicy

_LENGTH_BYTES = 4
_RECEIVE_BYTES = 1 << 16


class Message(msgspec.Struct, tag=True, frozen=True):
    """One message; its JSON says which kind it is."""


class Configure(Message, frozen=True):
    """To the writer, first: where to write and what to keep."""

    folder: str
    policy: RetentionPolicy


class ShareMemory(Message, frozen=True):
    """To the writer: slot `slot` is this memory from now on. Its descriptor comes along."""

    slot: int
    bytes: int


class Submit(Message, frozen=True):
    """To the writer: the snapshot in `slot` is complete. From here on it survives the trainer."""

    slot: int
    step: int
    header_offset: int
    header_bytes: int
    precious: bool
    """Scored or asked for: not replaced by a newer one while it waits."""


class Announce(Message, frozen=True):
    """To the writer: this will be submitted. Its header is there, and its tensors are being copied."""

    submit: Submit


class Copied(Message, frozen=True):
    """To the writer: the first `count` tensors of the announced snapshot are there, in the order of a pack."""

    count: int


class Abandon(Message, frozen=True):
    """To the writer: the announced snapshot will never be submitted."""


class Withdraw(Message, frozen=True):
    """To the writer: give back a slot whose snapshot is waiting, a precious one only with `force`."""

    force: bool


class Finish(Message, frozen=True):
    """To the writer: there will be no more; end when all is done."""


class Withdrawn(Message, frozen=True):
    """From the writer, in answer to `Withdraw`: the slot that is free now, or None."""

    slot: int | None


class Released(Message, frozen=True):
    """From the writer: `slot` has been dealt with and is free."""

    slot: int


class SaidDurable(Message, frozen=True):
    """From the writer: the snapshot in `slot` is a checkpoint."""

    slot: int
    step: int
    sequence: int
    edge_time_s: float
    seconds: float
    bytes: int


class SaidVerified(Message, frozen=True):
    """From the writer: the checkpoint was read back and is right."""

    step: int
    sequence: int


class SaidFailed(Message, frozen=True):
    """From the writer: the snapshot in `slot` could not be saved; it stays there and is tried again."""

    slot: int
    step: int
    sentence: str


class SaidWarning(Message, frozen=True):
    """From the writer: something else for a person."""

    sentence: str


AnyMessage = (
    Configure
    | ShareMemory
    | Submit
    | Announce
    | Copied
    | Abandon
    | Withdraw
    | Finish
    | Withdrawn
    | Released
    | SaidDurable
    | SaidVerified
    | SaidFailed
    | SaidWarning
)


class Disconnected(Exception):
    """The other side is gone."""


class Channel:
    """One end of the socket. Messages arrive whole and in order; what was sent before a death still arrives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self._sending = threading.Lock()
        self._decoder = msgspec.json.Decoder(AnyMessage)

    def fileno(self) -> int:
        """The socket's descriptor, to wait on."""
        return self._socket.fileno()

    def send(self, message: AnyMessage, *, descriptor: int | None = None) -> None:
        """Send a message, and an open file with it. `Disconnected` when nobody is there."""
        text = msgspec.json.encode(message)
        data = len(text).to_bytes(_LENGTH_BYTES, "little") + text
        with self._sending:
            try:
                if descriptor is not None:
                    sent = socket.send_fds(self._socket, [data], [descriptor])
                    data = data[sent:]
                if data:
                    self._socket.sendall(data)
            except OSError as error:
                raise Disconnected from error

    def receive(self, timeout_s: float) -> list[AnyMessage]:
        """All messages that are there, after waiting for the first up to `timeout_s`. `Disconnected` at the end."""
        while True:
            try:
                if not select.select([self._socket], [], [], timeout_s)[0]:
                    return []
                data, descriptors, _, _ = socket.recv_fds(self._socket, _RECEIVE_BYTES, 8)
            except (OSError, ValueError) as error:
                raise Disconnected from error
            if not data:
                raise Disconnected
            self._descriptors.extend(descriptors)
            self._received += data
            messages = self._take()
            if messages:
                return messages

    def take_descriptor(self) -> int:
        """The open file that came with the oldest message that has one."""
        return self._descriptors.popleft()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _take(self) -> list[AnyMessage]:
        messages: list[AnyMessage] = []
        while len(self._received) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._received[:_LENGTH_BYTES], "little")
            if len(self._received) < end:
                break
            messages.append(self._decoder.decode(self._received[_LENGTH_BYTES:end]))
            del self._received[:end]
        return messages
