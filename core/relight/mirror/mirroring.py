"""The process that copies a run elsewhere while it trains, and finishes when the training has ended.

Whatever the place does, the training does not notice: this process only reads the run's folder, and writes one small
record about itself there.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from msgspec.structs import replace

from relight.checkpoints.file_names import StoreLayout
from relight.checkpoints.store import CheckpointStore
from relight.errors import DamagedFile, RelightError, RunBusy, UsageError
from relight.mirror.address import MirrorAddress
from relight.mirror.connection import connect
from relight.mirror.copier import Copier, Waiting
from relight.mirror.local_files import SourceGone
from relight.mirror.remote import MirrorError, MirrorRefused
from relight.mirror.report import read_mirror
from relight.regular_file import open_regular
from relight.runs.evidence import gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.lock import is_locked
from relight.runs.process_identity import current_process, is_alive
from relight.runs.record_file import read_record_or_none, write_record
from relight.runs.records import MirrorState
from relight.runs.status import derive_status

POLL_S = 1.0
FOLLOW_S = 0.2
TOLD_EVERY_S = 10.0
"""How often the record says how much of a long upload is left: each change redraws the run's page."""
LONGEST_WAIT_S = 60.0
GIVE_UP_S = 600.0
"""How long after the end of a training a place may let nothing through."""
REFUSED = 4
"""Exit code: copying there would be wrong, so the supervisor does not start the process again."""
BUSY = 5
"""Exit code: another process copies this run."""
_LOCKING = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

_log = logging.getLogger(__name__)

OnState = Callable[[MirrorState], None]


class MirrorLock:
    """Held by the one process that copies a run. Raises `RunBusy` if there is one already."""

    def __init__(self, layout: RunLayout) -> None:
        self._descriptor = open_regular(layout.mirror_lock, flags=_LOCKING)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise RunBusy(f"Another process copies run {layout.run_id!r} already.") from None
        except OSError:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> MirrorLock:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


class _Withdrawn(Exception):
    """The run's mirror was changed or taken away, or its folder is gone."""


class Mirroring:
    """Copies one run to its mirror. Create one under the `MirrorLock`."""

    def __init__(self, layout: RunLayout, address: MirrorAddress, *, on_state: OnState | None = None) -> None:
        self._layout = layout
        self._address = address
        self._on_state = on_state
        remote = connect(address, layout.run_id)
        self._copier = Copier(layout, remote, on_sent=self._on_sent, url=address.of_run(layout.run_id))
        self._state = MirrorState(url=address.url, time_s=time.time(), process=current_process())
        self._told_s = 0.0
        self._progress_s = time.monotonic()
        self._seen: object = None
        self._left_bytes = 0
        self._ending = False
        self._wait_s = POLL_S
        """How long to wait after the next failure: twice as long each time until a checkpoint gets through."""

    def run(self) -> int:
        """Copy until the run has ended and everything is there; return an exit code. Retries after each failure."""
        try:
            while True:
                busy = self._is_busy()
                try:
                    self._copy(ended=not busy)
                except MirrorRefused as error:
                    _log.warning("The run is not copied: %s", error)
                    self._tell(failure=str(error), refused=True)
                    return REFUSED
                except MirrorError as error:
                    self._note_failure(error, ended=not busy)
                    if self._ending or (not busy and time.monotonic() - self._progress_s > GIVE_UP_S):
                        return 1
                    wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, LONGEST_WAIT_S)
                    self._sleep(wait_s)
                    continue
                except SourceGone:
                    pass
                else:
                    self._wait_s = POLL_S
                    if not busy:
                        return 0
                if busy:
                    self._progress_s = time.monotonic()
                self._sleep(POLL_S)
        except _Withdrawn:
            return 0
        finally:
            self._tell(process=None)

    def run_once(self) -> MirrorState:
        """Copy what is missing now, without a retry. Raises `MirrorError` and `MirrorRefused`."""
        try:
            for _ in range(3):
                with contextlib.suppress(SourceGone):  # the retention was faster
                    self._copy(ended=not self._is_busy())
                    break
        except MirrorRefused as error:
            self._tell(failure=str(error), refused=True)
            raise
        except MirrorError as error:
            self._note_failure(error, ended=False)
            raise
        except _Withdrawn:
            raise RelightError(
                f"The mirror of run {self._layout.run_id!r} was changed while it was being copied."
            ) from None
        finally:
            self._tell(process=None)
        return self._state

    def end_soon(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """End at the next failure, or when everything is copied: a preemption leaves some seconds for that."""
        self._ending = True

    def _copy(self, *, ended: bool) -> None:
        copier = self._copier
        if not copier.is_connected:
            self._seen = None
            copier.connect()
        seen = self._look()
        if seen == self._seen and not ended:
            return
        copier.claim()
        while (waiting := copier.find_waiting(ended=ended)).checkpoints:
            self._note(waiting)
            copier.copy(waiting.checkpoints[0])
            self._wait_s = POLL_S  # there may always be another one
        if ended:
            copier.copy_files()
        copier.retain(waiting)
        self._note(waiting)
        self._seen = seen

    def _look(self) -> object:
        """Return what differs when there may be something new to copy."""
        store = StoreLayout(self._layout.checkpoints)
        return [_mark_folder(path) for path in (store.manifests, store.labels, self._layout.attempts)]

    def _is_busy(self) -> bool:
        evidence = gather_evidence(self._layout)
        # A supervisor that has released the lock is done with the run. As the process of a job it waits for this one.
        alive = is_locked(self._layout) or evidence.trainer_alive or evidence.writer_alive
        return alive or derive_status(evidence).status.is_live

    def _sleep(self, duration_s: float) -> None:
        until = time.monotonic() + duration_s
        while True:
            self._check_target()
            left_s = until - time.monotonic()
            if left_s <= 0 or self._ending:
                time.sleep(max(0.0, min(left_s, 0.2)))
                return
            time.sleep(min(left_s, POLL_S))

    def _check_target(self) -> None:
        try:
            wanted = read_mirror(self._layout)
        except RelightError:
            return  # damaged: go on with what it said
        if wanted != self._address:
            raise _Withdrawn

    def _on_sent(self, sent: int) -> None:
        self._progress_s = time.monotonic()
        self._left_bytes = max(0, self._left_bytes - sent)
        if self._progress_s - self._told_s >= TOLD_EVERY_S:
            self._check_target()
            self._tell(waiting_bytes=self._left_bytes)

    def _note_failure(self, error: MirrorError, *, ended: bool) -> None:
        # What is there is no longer certain, and neither is the connection.
        waiting = self._copier.find_waiting(ended=ended)
        self._copier.disconnect()
        since_s = self._state.failing_since_s
        self._tell(
            waiting_checkpoints=len(waiting.checkpoints),
            waiting_bytes=waiting.bytes,
            failure=str(error),
            failing_since_s=time.time() if since_s is None else since_s,
        )

    def _note(self, waiting: Waiting) -> None:
        copier = self._copier
        newest = copier.newest
        self._left_bytes = waiting.bytes
        self._tell(
            copied_sequence=newest[0].sequence if newest else None,
            copied_step=newest[0].step if newest else None,
            copied_s=newest[1] if newest else None,
            checkpoints=copier.count,
            waiting_checkpoints=len(waiting.checkpoints),
            waiting_bytes=waiting.bytes,
            failure=copier.damage,
            failing_since_s=None,
        )

    def _tell(self, **changes: object) -> None:
        """Write the record if it has changed. A full disk must not end the copying."""
        state = replace(self._state, **changes)
        if state == self._state and self._told_s:
            return
        self._state = replace(state, time_s=time.time())
        self._told_s = time.monotonic()
        with contextlib.suppress(OSError):
            write_record(self._layout.mirror_state, self._state, durable=False)
        if self._on_state is not None:
            self._on_state(self._state)


def copy_now(layout: RunLayout, *, on_state: OnState | None = None) -> MirrorState:
    """Copy what the run's mirror is missing, or wait for the process that does so already. Do not retry.

    Raises `MirrorError`, `MirrorRefused`, and `UsageError` for a run without a mirror.
    """
    address = read_mirror(layout)
    if address is None:
        raise UsageError(
            f"Run {layout.run_id!r} has no mirror. Say where to copy it: relight mirror {layout.run_id} URL"
        )
    newest = max(
        (info.sequence for info in CheckpointStore(layout.checkpoints).list().checkpoints if info.verified), default=0
    )
    told: MirrorState | None = None
    while True:
        try:
            with MirrorLock(layout):
                return Mirroring(layout, address, on_state=on_state).run_once()
        except RunBusy:
            time.sleep(FOLLOW_S)
        state = read_record_or_none(layout.mirror_state, MirrorState)
        if state is None or state.url != address.url or not is_alive(state.process):
            continue
        if state != told and on_state is not None:
            on_state(state)
        told = state
        if state.refused:
            raise MirrorRefused(state.failure or "Copying was refused.")
        if state.failing_since_s is not None:
            raise MirrorError(state.failure or "Nothing can be copied.")
        if not state.waiting_checkpoints and (state.copied_sequence or 0) >= newest:
            return state


def serve(layout: RunLayout) -> int:
    """Copy the run to its mirror until both are done; return an exit code."""
    try:
        address = read_mirror(layout)
    except DamagedFile:
        return REFUSED
    if address is None:
        return 0
    try:
        with MirrorLock(layout):
            try:
                mirroring = Mirroring(layout, address)
            except MirrorRefused as error:  # a package is missing
                _log.warning("The run is not copied: %s", error)
                state = MirrorState(url=address.url, time_s=time.time(), failure=str(error), refused=True)
                write_record(layout.mirror_state, state, durable=False)
                return REFUSED
            # A shutdown or a preemption asks every process to end, and leaves some seconds: they may save the last
            # checkpoint. The second signal ends it.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, _ending_twice(mirroring))
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            with contextlib.suppress(OSError):
                os.nice(10)
            return mirroring.run()
    except RunBusy:
        return BUSY


def _ending_twice(mirroring: Mirroring) -> Callable[[int, FrameType | None], None]:
    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        mirroring.end_soon()

    return end


def _mark_folder(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
