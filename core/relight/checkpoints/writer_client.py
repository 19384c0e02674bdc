"""The trainer's side of the writer process: stage snapshots in shared memory, submit them, receive the results."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from relight.checkpoints.encoded_snapshot import EncodedSnapshot, encode_snapshot
from relight.checkpoints.pack import HEADER_ALIGNMENT, lay_out
from relight.checkpoints.retention import RetentionPolicy
from relight.checkpoints.snapshot_header import SnapshotHeader
from relight.checkpoints.staging import Register, StagingMemory
from relight.checkpoints.writer_channel import (
    Abandon,
    Announce,
    AnyMessage,
    Channel,
    Configure,
    Copied,
    Disconnected,
    Durable,
    Finish,
    Released,
    SaveFailed,
    ShareMemory,
    Submit,
    Verified,
    Warned,
    Withdraw,
    Withdrawn,
    WriterDied,
    WriterEvent,
    WriterStarted,
)
from relight.errors import SaveError
from relight.runs.process_identity import identify_process
from relight.runs.records import ProcessIdentity

ANNOUNCED_BYTES = 64 << 20
"""Snapshots of this size or more are announced, and so written while they are copied.

For smaller ones the messages cost more than that saves."""

_log = logging.getLogger(__name__)

_SLOTS = 2
_ANSWER_S = 30.0
_RESTARTS_WITHIN_S = 120.0
_RESTARTS_AT_ONCE = 3
_LONGEST_PAUSE_S = 30.0
_HEADER_BYTES = 4 << 20
_PRECIOUS = ("best", "stop", "signal", "exception", "manual", "final")


@dataclass
class _Slot:
    number: int
    memory: StagingMemory | None = None
    state: Literal["free", "filling", "submitted", "absent"] = "free"
    """`absent`: the machine has memory for one snapshot only."""
    submit: Submit | None = None
    announced: bool = False
    """The writer may read while the slot is being filled."""
    heard: bool = False
    """The writer has reported a result: the snapshot is durable, or saving it has failed so far."""


class WriterClient:
    """Starts a writer process and hands snapshots to it. Safe to use from several threads.

    `inherit_fds` stay open in the writer. With the run's lock among them, the lock is held until the last snapshot is
    durable. If the writer dies, the next call starts another one, which gets the unfinished snapshots. If writers keep
    dying, the client pauses 2 s, 4 s and so on up to 30 s before it starts the next one. Until then snapshots wait in
    memory, and newer ones replace older ones.
    """

    def __init__(
        self,
        folder: Path,
        *,
        policy: RetentionPolicy | None = None,
        inherit_fds: Sequence[int] = (),
        rank: int | None = None,
    ) -> None:
        """`folder` is the store; `policy` says which checkpoints it keeps; `rank` is set for one of several.

        Raises `SaveError`.
        """
        self._configure = Configure(str(folder.absolute()), policy or RetentionPolicy(), rank)
        self._inherit_fds = tuple(inherit_fds)
        self._guard = threading.RLock()
        self._slots = [_Slot(number) for number in range(_SLOTS)]
        self._events: deque[WriterEvent] = deque()
        self._withdrawn: Withdrawn | None = None
        self._deaths: list[float] = []
        self._paused_until: float | None = None
        self._closed = False
        try:
            self._process, self._channel = self._start()
        except OSError as error:
            raise SaveError(f"The checkpoint writer cannot be started: {error.strerror or error}.") from error

    @property
    def pid(self) -> int:
        """Pid of the writer process. It changes after a `WriterDied`."""
        return self._process.pid

    @property
    def identity(self) -> ProcessIdentity:
        """Identity of the writer process, which a later process with the same pid does not have."""
        return identify_process(self._process.pid)

    def set_best(self, *, higher_is_better: bool) -> None:
        """Set which of two scores is better, for a run whose best metric was not known when it started."""
        with self._guard:
            policy = self._configure.policy
            rules = tuple(
                replace(rule, higher_is_better=higher_is_better) if rule.metric is None else rule
                for rule in policy.best
            )
            self._configure = msgspec.structs.replace(self._configure, policy=replace(policy, best=rules))
            try:
                self._channel.send(self._configure)
            except Disconnected:
                pass  # The next call notices it, and starts a writer with this configuration.

    def stage(
        self, header: SnapshotHeader, *, timeout_s: float = 30.0, register: Register | None = None
    ) -> list[memoryview]:
        """Return memory for each tensor of `header`, in the same order. Fill it, then call `submit`.

        Fill it in pack order and report progress with `note_copied`; writing starts while you copy.

        If both slots are in use, this snapshot replaces one that still waits to be written. If the waiting one is
        scored, or the user asked for it, the call first gives the writer up to `timeout_s` to write it. `register`
        prepares new memory for copies from a device. Raises `UnsupportedState`, or `SaveError` if there is no memory or
        the writer does not respond.
        """
        snapshot = encode_snapshot(header)
        text = msgspec.json.encode(snapshot)
        offsets = lay_out(snapshot.tensors)
        data_bytes = sum(tensor.nbytes for tensor in snapshot.tensors)
        header_offset = -(-data_bytes // HEADER_ALIGNMENT) * HEADER_ALIGNMENT
        with self._guard:
            slot = self._take_slot(timeout_s)
            memory = self._fit_or_do_without(slot, header_offset + len(text))
            if memory is None:
                slot = self._take_slot(timeout_s)
                memory = self._fit_memory(slot, header_offset + len(text))
            if register is not None:
                memory.offer(register)
            memory.view[header_offset : header_offset + len(text)] = text
            slot.state = "filling"
            slot.heard = False
            slot.submit = Submit(slot.number, snapshot.step, header_offset, len(text), precious=_is_precious(snapshot))
            slot.announced = data_bytes >= ANNOUNCED_BYTES
            if slot.announced:
                self._tell(Announce(slot.submit))
            return [
                memory.view[offset : offset + tensor.nbytes]
                for offset, tensor in zip(offsets, snapshot.tensors, strict=True)
            ]

    def note_copied(self, count: int) -> None:
        """Report that the first `count` tensors of the staged snapshot, in pack order, will not change any more."""
        with self._guard:
            if any(slot.state == "filling" and slot.announced for slot in self._slots):
                self._tell(Copied(count))

    def submit(self) -> None:
        """Hand the staged snapshot over as complete. From now on it becomes durable even if this process is killed."""
        with self._guard:
            slot = next(slot for slot in self._slots if slot.state == "filling")
            assert slot.submit is not None
            slot.state = "submitted"
            self._tell(slot.submit)

    def discard(self) -> None:
        """Drop the staged snapshot that was not submitted, if there is one."""
        with self._guard:
            for slot in self._slots:
                if slot.state == "filling":
                    slot.state = "free"
                    if slot.announced:
                        self._tell(Abandon())

    def poll(self) -> list[WriterEvent]:
        """Return what has happened since the last call. Does not wait."""
        with self._guard:
            self._listen(0.0)
            events = list(self._events)
            self._events.clear()
            return events

    def drain(self, timeout_s: float) -> list[WriterEvent]:
        """Wait until every submitted snapshot is durable or has failed, and return all events as `poll` does."""
        deadline = time.monotonic() + timeout_s
        events = self.poll()
        while self.pending and (left := deadline - time.monotonic()) > 0:
            with self._guard:
                self._listen(min(left, 0.2))
                waits = self._paused_until is not None
            if waits:
                time.sleep(min(left, 0.05))
            events += self.poll()
        return events

    @property
    def pending(self) -> int:
        """Number of submitted snapshots without a result so far."""
        with self._guard:
            return sum(slot.state == "submitted" and not slot.heard for slot in self._slots)

    @property
    def unfinished(self) -> int:
        """Number of submitted snapshots that are not durable yet, including those that have failed so far."""
        with self._guard:
            return sum(slot.state == "submitted" for slot in self._slots)

    def close(self, *, timeout_s: float = 0.0) -> None:
        """Let the writer finish, verify and exit on its own, and wait for that up to `timeout_s`."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            try:
                self._channel.send(Finish())
            except Disconnected:
                pass
            if timeout_s > 0:
                try:
                    self._process.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    pass
            self._channel.close()
            for slot in self._slots:
                if slot.memory is not None:
                    slot.memory.close()
                    slot.memory = None

    def _start(self) -> tuple[subprocess.Popen[bytes], Channel]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "relight.checkpoints.writer_process",
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *self._inherit_fds),
                start_new_session=True,
            )
        channel = Channel(ours)
        try:
            channel.send(self._configure)
            for slot in self._slots:
                if slot.memory is not None:
                    channel.send(ShareMemory(slot.number, slot.memory.nbytes), descriptor=slot.memory.descriptor)
            for slot in sorted(self._slots, key=lambda slot: slot.submit.step if slot.submit else 0):
                if slot.state == "submitted" and slot.submit is not None:
                    slot.heard = False
                    channel.send(slot.submit)
        except Disconnected:
            pass  # The next call notices it.
        return process, channel

    def _take_slot(self, timeout_s: float) -> _Slot:
        deadline = time.monotonic() + timeout_s
        self.discard()
        self._listen(0.0)
        while True:
            for slot in self._slots:
                if slot.state == "free":
                    return slot
            if self._paused_until is not None:
                return self._reclaim_slot()
            freed = self._withdraw(force=time.monotonic() >= deadline)
            if freed is not None:
                freed.state = "free"
                return freed
            if time.monotonic() >= deadline + _ANSWER_S:
                raise SaveError(
                    "The checkpoint writer does not respond, so nothing is saved. The disk may be hanging; see the log."
                )
            self._listen(max(0.0, min(0.2, deadline - time.monotonic())))

    def _reclaim_slot(self) -> _Slot:
        """Free the slot of the oldest snapshot for the newest one. No writer runs, so no process reads the slots."""
        waiting = [slot for slot in self._slots if slot.submit is not None and slot.state == "submitted"]
        slot = min(waiting, key=lambda slot: (slot.submit.precious, slot.submit.step) if slot.submit else (False, 0))
        slot.state = "free"
        return slot

    def _withdraw(self, *, force: bool) -> _Slot | None:
        process = self._process
        self._withdrawn = None
        try:
            self._channel.send(Withdraw(force))
        except Disconnected:
            self._replace_writer()
            return None
        deadline = time.monotonic() + _ANSWER_S
        while self._withdrawn is None and process is self._process and time.monotonic() < deadline:
            self._listen(0.2)
        answer = self._withdrawn
        return None if answer is None or answer.slot is None else self._slots[answer.slot]

    def _fit_or_do_without(self, slot: _Slot, nbytes: int) -> StagingMemory | None:
        """Return memory for a slot; None if there is not enough, but another slot has memory to use instead."""
        try:
            return self._fit_memory(slot, nbytes)
        except SaveError:
            if not any(other.memory is not None for other in self._slots if other is not slot):
                raise
            slot.state = "absent"
            self._events.append(
                Warned("There is memory for only one snapshot: a save may have to wait for the previous one.")
            )
            return None

    def _fit_memory(self, slot: _Slot, nbytes: int) -> StagingMemory:
        if slot.memory is None or slot.memory.nbytes < nbytes:
            if slot.memory is not None:
                slot.memory.close()
                slot.memory = None
            # A little more, so that a header that grows by a few bytes still fits.
            slot.memory = StagingMemory.create(nbytes + nbytes // 64 + _HEADER_BYTES)
            self._tell(ShareMemory(slot.number, slot.memory.nbytes), descriptor=slot.memory.descriptor)
        return slot.memory

    def _tell(self, message: AnyMessage, *, descriptor: int | None = None) -> None:
        if self._paused_until is not None:
            return  # the next writer gets everything when it starts
        try:
            self._channel.send(message, descriptor=descriptor)
        except Disconnected:
            self._replace_writer()

    def _listen(self, timeout_s: float) -> None:
        if self._closed or not self._revive():
            return
        try:
            for message in self._channel.receive(timeout_s):
                self._hear(message)
        except Disconnected:
            self._replace_writer()

    def _hear(self, message: AnyMessage) -> None:
        if isinstance(message, Released):
            self._slots[message.slot].state = "free"
        elif isinstance(message, Withdrawn):
            self._withdrawn = message
        elif isinstance(message, Durable | SaveFailed):
            self._slots[message.slot].heard = True
            self._events.append(message)
        elif isinstance(message, Verified | Warned):
            self._events.append(message)

    def _replace_writer(self) -> None:
        """Start another writer, with everything that the dead one had not finished."""
        self._channel.close()
        try:
            code: int | None = self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            code = None
        how = (
            "does not respond"
            if code is None
            else f"was killed by signal {-code}"
            if code < 0
            else f"ended with code {code}"
        )
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if now - at < _RESTARTS_WITHIN_S] + [now]
        often = len(self._deaths) - _RESTARTS_AT_ONCE
        if often > 0:
            # Writers keep dying at once: the training must not spend its time on starting them.
            self._pause(f"The checkpoint writer {how}, like those before it", min(2.0**often, _LONGEST_PAUSE_S))
        elif self._try_to_start():
            self._events.append(WriterDied(True, f"The checkpoint writer {how}; another one has taken over."))

    def _try_to_start(self) -> bool:
        try:
            self._process, self._channel = self._start()
        except OSError as error:
            self._pause(f"The checkpoint writer cannot be started ({error.strerror or error})", _LONGEST_PAUSE_S)
            return False
        return True

    def _pause(self, why: str, pause_s: float) -> None:
        self._paused_until = time.monotonic() + pause_s
        sentence = f"{why}: nothing is saved at the moment. The next one starts within {_LONGEST_PAUSE_S:.0f} s."
        self._events.append(WriterDied(False, sentence))

    def _revive(self) -> bool:
        """Tell whether a writer is running, after starting one if the pause is over."""
        if self._paused_until is None:
            return True
        if time.monotonic() < self._paused_until:
            return False
        self._paused_until = None
        if not self._try_to_start():
            return False
        self._events.append(WriterStarted("Another checkpoint writer was started."))
        return True


def _is_precious(snapshot: EncodedSnapshot) -> bool:
    return snapshot.score is not None or snapshot.reason in _PRECIOUS
