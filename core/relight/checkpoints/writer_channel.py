"""Everything that the trainer and the writer process tell each other, and the socket that carries it."""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from dataclasses import dataclass

import msgspec

from relight.checkpoints.retention import RetentionPolicy

_LENGTH_BYTES = 4
_RECEIVE_BYTES = 1 << 16


class Message(msgspec.Struct, tag=True, frozen=True):
    """One message. Its JSON names its class."""


class Configure(Message, frozen=True):
    """To the writer, as the first message: where to write and what to keep. Sent again when the policy changes."""

    folder: str
    policy: RetentionPolicy
    rank: int | None = None
    """The rank of the trainer, if it is one of several. Only rank 0's writer deletes and verifies."""


class ShareMemory(Message, frozen=True):
    """To the writer: slot `slot` is this memory from now on. Its file descriptor comes with the message."""

    slot: int
    bytes: int


class Submit(Message, frozen=True):
    """To the writer: the snapshot in `slot` is complete. From now on it survives the trainer."""

    slot: int
    step: int
    header_offset: int
    header_bytes: int
    precious: bool
    """It is scored, or the user asked for it: a newer snapshot does not replace it while it waits."""


class Announce(Message, frozen=True):
    """To the writer: this snapshot will be submitted. Its header is in the slot; its tensors are being copied."""

    submit: Submit


class Copied(Message, frozen=True):
    """To the writer: the first `count` tensors of the announced snapshot, in pack order, are in the slot."""

    count: int


class Abandon(Message, frozen=True):
    """To the writer: the announced snapshot will never be submitted."""


class Withdraw(Message, frozen=True):
    """To the writer: give back a slot whose snapshot is still waiting; a precious one only with `force`."""

    force: bool


class Finish(Message, frozen=True):
    """To the writer: nothing more will come. End when everything is done."""


class Withdrawn(Message, frozen=True):
    """From the writer, as the answer to `Withdraw`: the slot that is free now, or None."""

    slot: int | None


class Released(Message, frozen=True):
    """From the writer: it is done with `slot`, which is free."""

    slot: int


class Durable(Message, frozen=True):
    """From the writer: the snapshot in `slot` is a checkpoint now. Its manifest and packs have reached the disk."""

    slot: int
    step: int
    sequence: int
    edge_time_s: float
    """Time of the step edge, in seconds since 1970: work at risk counts from here."""
    at_s: float
    """When it became durable, on the monotonic clock that all processes of a machine share."""
    bytes: int
    """Bytes written; shared tensors are not written."""


class Verified(Message, frozen=True):
    """From the writer: it has read the checkpoint back from the disk, and every digest matches."""

    step: int
    sequence: int


class SaveFailed(Message, frozen=True):
    """From the writer: the snapshot in `slot` is not durable yet. Training continues.

    The snapshot stays in its slot, and the writer tries again until a newer one is durable or takes the slot.
    """

    slot: int
    step: int
    sentence: str


class Warned(Message, frozen=True):
    """From the writer: something else that you should know, such as a damaged checkpoint."""

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
    | Durable
    | Verified
    | SaveFailed
    | Warned
)


@dataclass(frozen=True)
class WriterDied:
    """The writer process ended unexpectedly. `restarted`: another one has taken over its work."""

    restarted: bool
    sentence: str


@dataclass(frozen=True)
class WriterStarted:
    """After a pause another writer was started. It has all snapshots that were waiting."""

    sentence: str


WriterEvent = Durable | Verified | SaveFailed | Warned | WriterDied | WriterStarted
"""What the trainer is notified of."""


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

    def send(self, message: AnyMessage, *, descriptor: int | None = None) -> None:
        """Send a message, with an open file if `descriptor` is one. Raises `Disconnected` if the other side is gone."""
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
        """Return all messages that have arrived; wait for the first one up to `timeout_s`.

        Raises `Disconnected` when the other side is gone and all its messages have been returned.
        """
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
        """Return the open file that came with the oldest message whose file was not taken yet."""
        return self._descriptors.popleft()

    def close(self) -> None:
        """Close the socket."""
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
