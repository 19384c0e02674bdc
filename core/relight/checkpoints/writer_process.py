"""The writer process: makes staged snapshots durable, verifies them and applies the retention.

`WriterClient` starts `python -m relight.checkpoints.writer_process FD TRAINER_PID` in a session of its own. When the
trainer dies, for whatever reason, this process finishes every complete snapshot that was handed to it, and exits. It
imports neither torch nor NumPy.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from relight.checkpoints.arrival import Abandoned, Arrival
from relight.checkpoints.deletion import apply_retention, sweep
from relight.checkpoints.encoded_snapshot import EncodedSnapshot
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.pack import lay_out
from relight.checkpoints.receipt_exchange import Outdone
from relight.checkpoints.recovery import find_newest_good
from relight.checkpoints.retention import RetentionPolicy, plan_retention
from relight.checkpoints.staging import StagingMemory
from relight.checkpoints.store import CheckpointStore
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
)
from relight.errors import RelightError
from relight.machine.priority import lower_priority

_log = logging.getLogger(__name__)

_PARENT_CHECK_S = 0.2
_RETRY_S = 5.0
_ORPHAN_RETRIES = 5
_ORPHAN_RETRY_S = 1.0
_NICENESS = 10


@dataclass
class _Job:
    submit: Submit
    serial: int
    failures: int = 0
    not_before: float = 0.0
    arrival: Arrival | None = None
    """Of an announced snapshot, whose write may begin before it is submitted."""
    begun: bool = False


class Writer:
    """Two threads: `serve` answers the trainer at once, even while the disk hangs, and the other one writes."""

    def __init__(self, channel: Channel, *, trainer_pid: int) -> None:
        self._channel = channel
        self._trainer_pid = trainer_pid
        self._memory: dict[int, StagingMemory] = {}
        self._waiting: list[_Job] = []
        self._announced: _Job | None = None
        self._submitted = 0
        self._changed = threading.Condition()
        self._orphaned = False
        self._finishing = False
        self._configure: Configure | None = None

    def serve(self) -> int:
        """Run until the trainer has finished or died, and all complete snapshots are durable or given up."""
        worker = threading.Thread(target=self._work, name="relight-writer")
        worker.start()
        try:
            while not self._finishing:
                # A forked child of the trainer may keep its end of the socket open: only the parent's pid is reliable.
                # Check it before receiving: then a dead trainer's messages are all there, and all are read.
                is_orphan = os.getppid() != self._trainer_pid
                messages = self._channel.receive(0.0 if is_orphan else _PARENT_CHECK_S)
                for message in messages:
                    self._handle(message)
                if is_orphan and not messages:
                    raise Disconnected
        except Disconnected:
            self._orphaned = True
        self._abandon()
        with self._changed:
            self._finishing = True
            self._changed.notify_all()
        while worker.is_alive():
            worker.join(_PARENT_CHECK_S)
            if not self._orphaned and os.getppid() != self._trainer_pid:
                self._orphaned = True
        return 1 if self._waiting else 0

    def _handle(self, message: AnyMessage) -> None:
        if isinstance(message, Configure):
            with self._changed:
                self._configure = message
                self._changed.notify_all()
        elif isinstance(message, ShareMemory):
            old = self._memory.pop(message.slot, None)
            if old is not None:
                old.close()
            self._memory[message.slot] = StagingMemory(self._channel.take_descriptor(), message.bytes)
        elif isinstance(message, Announce):
            self._abandon()
            with self._changed:
                self._announced = self._make_job(message.submit, Arrival())
                self._changed.notify_all()
        elif isinstance(message, Copied):
            if self._announced is not None and self._announced.arrival is not None:
                self._announced.arrival.note_copied(message.count)
        elif isinstance(message, Abandon):
            self._abandon()
        elif isinstance(message, Submit):
            self._submit(message)
        elif isinstance(message, Withdraw):
            self._channel.send(Withdrawn(self._withdraw(force=message.force)))
        elif isinstance(message, Finish):
            self._finishing = True

    def _submit(self, submit: Submit) -> None:
        with self._changed:
            announced, self._announced = self._announced, None
            if announced is not None and announced.arrival is not None and announced.begun:
                assert announced.submit == submit
                announced.arrival.complete()
                return
            self._waiting.append(self._make_job(submit))
            for job in self._waiting:
                job.not_before = 0.0
            self._changed.notify_all()

    def _abandon(self) -> None:
        with self._changed:
            announced, self._announced = self._announced, None
            if announced is not None and announced.arrival is not None:
                announced.arrival.abandon()

    def _make_job(self, submit: Submit, arrival: Arrival | None = None) -> _Job:
        self._submitted += 1
        return _Job(submit, self._submitted, arrival=arrival)

    def _withdraw(self, *, force: bool) -> int | None:
        with self._changed:
            for job in self._waiting:
                if force or job.failures or not job.submit.precious:
                    self._waiting.remove(job)
                    return job.submit.slot
        return None

    def _work(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._configure is not None or self._finishing)
        if self._configure is None:
            return
        configure = self._configure
        store = CheckpointStore(Path(configure.folder))
        if not configure.rank:
            swept = partial(sweep, store, spare_newer=configure.rank is not None)
            self._attempt(swept, "What an earlier crash left behind could not be removed")
        while (job := self._next_job()) is not None:
            info = self._write(job, store)
            if info is not None:
                self._attempt(partial(self._verify, info, store), "The checkpoint could not be read back")
                policy = self._configure.policy  # it may have changed: scripts name their best metric late
                self._attempt(partial(_retain, store, policy), "Old checkpoints could not be removed")

    def _next_job(self) -> _Job | None:
        """Return the oldest job that may be tried now, or else the announced one; None when no more will come.

        An older job is always tried before a newer one: sequence numbers are in the order of step edges.
        """
        with self._changed:
            while True:
                now = time.monotonic()
                ready = [job for job in self._waiting if job.not_before <= now]
                if ready:
                    job = min(ready, key=lambda job: job.serial)
                    self._waiting.remove(job)
                    return job
                if self._finishing and not any(job.failures <= _ORPHAN_RETRIES for job in self._waiting):
                    return None
                if self._announced is not None and not self._announced.begun and not self._waiting:
                    self._announced.begun = True
                    return self._announced
                due = min((job.not_before for job in self._waiting), default=None)
                self._changed.wait(None if due is None else max(due - now, 0.01))

    def _write(self, job: _Job, store: CheckpointStore) -> CheckpointInfo | None:
        submit = job.submit
        try:
            snapshot, buffers = self._read_slot(submit)
            share = snapshot.share
            if share is not None and share.rank:
                new_bytes = store.contribute(snapshot, buffers, arrival=job.arrival)
                self._say(
                    Durable(submit.slot, snapshot.step, share.sequence, snapshot.time_s, time.monotonic(), new_bytes)
                )
                self._release(job)
                return None
            info = store.commit(
                snapshot, buffers, arrival=job.arrival, is_alone=lambda: self._finishing or self._orphaned
            )
        except Abandoned:
            return None
        except Outdone:
            self._say(Released(submit.slot))
            return None
        except RelightError as error:
            self._fail(job, str(error))
            return None
        except Exception as error:
            # A bug of ours or a strange file system: in any case it must not end the training.
            _log.exception("saving step %d", submit.step)
            self._fail(job, f"The checkpoint at step {submit.step} was not saved: {type(error).__name__}: {error}")
            return None
        self._say(Durable(submit.slot, info.step, info.sequence, info.time_s, time.monotonic(), info.new_bytes))
        self._release(job)
        return info

    def _release(self, job: _Job) -> None:
        """Give back the slot of a saved snapshot, and those of older ones."""
        self._say(Released(job.submit.slot))
        with self._changed:
            outdone = [other for other in self._waiting if other.serial < job.serial]
            self._waiting = [other for other in self._waiting if other.serial > job.serial]
        for other in outdone:
            # It failed, and this newer one did not. If it were saved now, it would count as the newest.
            self._say(Released(other.submit.slot))

    def _read_slot(self, submit: Submit) -> tuple[EncodedSnapshot, list[memoryview]]:
        memory = self._memory[submit.slot].view
        text = memory[submit.header_offset : submit.header_offset + submit.header_bytes]
        snapshot = msgspec.json.decode(bytes(text), type=EncodedSnapshot)
        offsets = lay_out(snapshot.tensors)
        return snapshot, [
            memory[offset : offset + tensor.nbytes] for offset, tensor in zip(offsets, snapshot.tensors, strict=True)
        ]

    def _fail(self, job: _Job, sentence: str) -> None:
        if job.arrival is not None:
            try:
                job.arrival.wait_until_complete()
            except Abandoned:
                return
            job.arrival = None
        job.failures += 1
        with self._changed:
            job.not_before = time.monotonic() + (_ORPHAN_RETRY_S if self._finishing else _RETRY_S)
            self._waiting.append(job)
        self._say(SaveFailed(job.submit.slot, job.submit.step, sentence))
        if self._orphaned:
            _log.error(sentence)

    def _verify(self, info: CheckpointInfo, store: CheckpointStore) -> None:
        damaged = store.check(info, from_disk=True)
        if not damaged:
            store.mark_verified(info)
            self._say(Verified(info.step, info.sequence))
            return
        # Checkpoints that share the damaged bytes go too, or the next one would share them again.
        good, _ = find_newest_good(store)
        left = f"The newest good one is at step {good.step}." if good else "No good checkpoint is left."
        self._say(
            Warned(
                f"The checkpoint at step {info.step} is damaged on the disk and was moved to quarantine: "
                f"{damaged[0].reason} {left}"
            )
        )

    def _attempt(self, action: Callable[[], object], what: str) -> None:
        try:
            action()
        except (OSError, RelightError) as error:
            self._say(Warned(f"{what}: {error}"))
        except Exception as error:
            _log.exception(what)
            self._say(Warned(f"{what}: {type(error).__name__}: {error}"))

    def _say(self, message: AnyMessage) -> None:
        try:
            self._channel.send(message)
        except Disconnected:
            pass


def _retain(store: CheckpointStore, policy: RetentionPolicy) -> None:
    apply_retention(store, plan_retention(store.list().checkpoints, policy))


def main() -> int:
    """Serve the trainer. The first argument is the descriptor of the socket, the second the trainer's pid."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # It exits when the trainer has ended and everything is safe. A shutdown leaves it the time for that.
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(format="relight checkpoint writer: %(message)s")
    lower_priority(_NICENESS)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    return Writer(channel, trainer_pid=int(sys.argv[2])).serve()


if __name__ == "__main__":
    sys.exit(main())
