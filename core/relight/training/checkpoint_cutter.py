"""Decides when a checkpoint is due, hands its snapshot to the writer process, and keeps `saving.json` up to date."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from torch import Tensor

from relight.checkpoints.encoded_snapshot import encode_snapshot
from relight.checkpoints.snapshot_header import SnapshotHeader
from relight.checkpoints.writer_channel import (
    Durable,
    SaveFailed,
    Verified,
    Warned,
    WriterDied,
    WriterEvent,
    WriterStarted,
)
from relight.checkpoints.writer_client import WriterClient
from relight.errors import SaveError
from relight.runs.layout import AttemptLayout
from relight.runs.record_file import encode_record, write_record
from relight.runs.records import Objective, SavingState
from relight.runs.reserved_file import ReservedFile
from relight.training.state.snapshot import copy_tensors

_SLOTS = 2
_log = logging.getLogger("relight")


@dataclass(frozen=True)
class CutPolicy:
    """When periodic checkpoints are cut: every `every_s` seconds and at every `every_steps`-th step; 0 means never."""

    every_s: float = 30.0
    every_steps: int = 0
    at_step: int = 0
    """Once more at this step, or at the first later edge that can be saved."""


class CheckpointCutter:
    """Cuts the checkpoints of one attempt. Not thread-safe."""

    def __init__(self, layout: AttemptLayout, *, policy: CutPolicy, writer: WriterClient) -> None:
        self.durable_step: int | None = None
        self.last_cut_step: int | None = None
        self._layout = layout
        self._policy = policy
        self._writer = writer
        self._saving = SavingState(time_s=time.time())
        self._saving_file = ReservedFile(layout.saving)  # its space is reserved, so that a full disk can be reported
        self._saving_file.reserve()
        self._last_cut_s = time.monotonic()
        self._owed = False
        self._write_identity()

    def is_due(self, step: int) -> bool:
        """Tell whether to cut a checkpoint at this step edge. While the writer has two snapshots, it stays due."""
        policy = self._policy
        if policy.every_steps and step % policy.every_steps == 0 and step != self.last_cut_step:
            self._owed = True
        if policy.every_s and time.monotonic() - self._last_cut_s >= policy.every_s:
            self._owed = True
        if policy.at_step and step >= policy.at_step > (self.last_cut_step or 0):
            self._owed = True
        if not self._owed:
            return False
        self.poll()
        return self._writer.pending < _SLOTS

    def check(self, header: SnapshotHeader) -> None:
        """Raise `UnsupportedState` if this snapshot cannot be saved. Called after the first step, not after an hour."""
        encode_snapshot(header)

    def cut(self, header: SnapshotHeader, tensors: Mapping[str, Tensor]) -> None:
        """Copy the snapshot into staging memory. After that the writer makes it durable, even if this process dies."""
        begun = time.perf_counter()
        self._owed = False
        self._last_cut_s = time.monotonic()
        try:
            memory = self._writer.stage(header)
        except SaveError as error:
            self._note_failure(str(error))
            return
        copy_tensors(tensors, memory, on_copied=self._writer.note_copied)
        self._writer.submit()
        self.last_cut_step = header.step
        self._saving = msgspec.structs.replace(self._saving, last_cost_s=time.perf_counter() - begun)

    def set_best(self, objective: Objective) -> None:
        """Tell the writer which of two checkpoints is better, once that is known."""
        self._writer.set_best(higher_is_better=objective.higher_is_better)

    def poll(self) -> None:
        """Read what the writer has reported so far, without waiting."""
        for event in self._writer.poll():
            self._note(event)

    def drain(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` until every snapshot is durable or has failed; return whether all are durable."""
        for event in self._writer.drain(timeout_s):
            self._note(event)
        return self._writer.pending == 0 and self._saving.failure is None

    @property
    def failure(self) -> str | None:
        """Why saving fails at present; None while it works."""
        return self._saving.failure

    @property
    def has_work(self) -> bool:
        """Whether the writer holds a snapshot that is not durable yet, including one that has failed so far."""
        return self._writer.unfinished > 0

    def close(self) -> None:
        """Disconnect from the writer, which finishes on its own."""
        self._writer.close()
        self._saving_file.release()

    def _note(self, event: WriterEvent) -> None:
        now = time.time()
        if isinstance(event, Durable):
            self.durable_step = event.step
            if self._saving.failure is not None:
                _log.info("Saving works again: the checkpoint at step %d is durable.", event.step)
            self._saving = msgspec.structs.replace(
                self._saving,
                time_s=now,
                durable_step=event.step,
                durable_time_s=event.edge_time_s,
                failure=None,
                failing_since_s=None,
                saves=self._saving.saves + 1,
                bytes_written=self._saving.bytes_written + event.bytes,
                last_write_s=max(0.0, now - event.edge_time_s),
            )
        elif isinstance(event, SaveFailed):
            self._note_failure(event.sentence)
            return
        elif isinstance(event, WriterDied):
            _log.warning("%s", event.sentence)
            if event.restarted:
                self._write_identity()
            else:
                self._saving = msgspec.structs.replace(
                    self._saving,
                    time_s=now,
                    failure=event.sentence,
                    failing_since_s=self._saving.failing_since_s or now,
                )
        elif isinstance(event, WriterStarted):
            _log.info("%s", event.sentence)
            self._write_identity()
            return
        elif isinstance(event, Warned):
            _log.warning("%s", event.sentence)
            return
        elif isinstance(event, Verified):
            return
        self._write_saving()

    def _note_failure(self, sentence: str) -> None:
        now = time.time()
        if sentence != self._saving.failure:
            _log.warning("%s Training continues.", sentence)
        self._saving = msgspec.structs.replace(
            self._saving, time_s=now, failure=sentence, failing_since_s=self._saving.failing_since_s or now
        )
        self._write_saving()

    def _write_saving(self) -> None:
        try:
            self._saving_file.write(encode_record(self._saving), durable=False)
            self._saving_file.reserve()
        except OSError as error:  # the next event tries again
            _log.warning("%s cannot be written: %s.", self._layout.saving.name, error.strerror or error)

    def _write_identity(self) -> None:
        try:
            write_record(self._layout.writer, self._writer.identity, durable=False)
        except (OSError, ProcessLookupError) as error:
            _log.warning("%s cannot be written: %s.", self._layout.writer.name, error)
