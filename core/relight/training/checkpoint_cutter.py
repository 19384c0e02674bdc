"""Decides when a checkpoint is due, hands its snapshot to the writer process, and keeps `saving.json` up to date."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

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
from relight.runs.failures import FailureHistory
from relight.runs.layout import AttemptLayout
from relight.runs.record_file import encode_record, write_record
from relight.runs.records import Objective, Pace, PaceReason, SavingState
from relight.runs.reserved_file import ReservedFile
from relight.training.cost_meter import CostMeter
from relight.training.metric_numbers import Values
from relight.training.pacing import Budget, SaveCosts, choose_first, choose_interval
from relight.training.state.page_locking import find_register
from relight.training.state.snapshot import copy_tensors

_SLOTS = 2
_REMEMBERED = 5
_FAILING_EVERY_S = 30.0
"""While nothing can be saved, a snapshot waits in memory for better times. It should not be an old one."""
_log = logging.getLogger("relight")


@dataclass(frozen=True)
class CutPolicy:
    """When periodic checkpoints are cut: at a pace within `budget`, unless seconds or steps are fixed."""

    every_s: float | None = None
    """Every so many seconds; 0 for never."""
    every_steps: int = 0
    """At every so many steps; 0 for no fixed number."""
    at_step: int = 0
    """Once more at this step, or at the first later edge that can be saved."""
    budget: Budget = field(default_factory=Budget)
    late_s: float = 0.0
    """So much later than due an edge may be cut, if steps are shorter than this."""

    @property
    def is_paced(self) -> bool:
        """Whether the budget decides."""
        return self.every_s is None and not self.every_steps


@dataclass(frozen=True)
class Experience:
    """What is known before an attempt begins: the pace of an earlier one, and how often the machine fails."""

    pace: Pace | None = None
    failures: FailureHistory = field(default_factory=FailureHistory)


class CheckpointCutter:
    """Cuts the checkpoints of one attempt. Not thread-safe."""

    def __init__(
        self, layout: AttemptLayout, *, policy: CutPolicy, writer: WriterClient, experience: Experience | None = None
    ) -> None:
        self.can_rescue = True
        """Whether the last edge can be saved after an error."""
        self.lost = ""
        """Which other rank is lost whose part is needed: there is none."""
        experience = experience or Experience()
        known = experience.pace
        self.durable_step: int | None = None
        self.last_cut_step: int | None = None
        self._layout = layout
        self._policy = policy
        self._writer = writer
        self._failures = experience.failures
        self._meter = CostMeter(known.cost_s if known is not None else None)
        self._durable_s = deque[float](maxlen=_REMEMBERED)
        if known is not None and known.durable_s is not None:
            self._durable_s.append(known.durable_s)
        self._checkpoint_bytes = known.checkpoint_bytes if known is not None else None
        self._cut_s: dict[int, float] = {}
        self._begun_s = self._last_cut_s = time.monotonic()
        self._due_s = math.inf
        self._asked: tuple[int, float] | None = None
        """The step and the time of the last answer that a checkpoint is due."""
        self._owed = False
        self._measured = 0
        self._saving = SavingState(time_s=time.time())
        self._saving_file = ReservedFile(layout.saving)  # its space is reserved, so that a full disk can be reported
        self._saving_file.reserve()
        self._set_pace(self._begun_s)
        self._write_saving()
        self._write_identity()

    def is_due(self, step: int) -> bool:
        """Tell whether to cut a checkpoint at this step edge. While the writer has two snapshots, it stays due."""
        now = time.monotonic()
        self._meter.pass_edge(step, now)
        policy = self._policy
        if policy.every_steps and step % policy.every_steps == 0 and step != self.last_cut_step:
            self._owed = True
        if policy.at_step and step >= policy.at_step > (self.last_cut_step or 0):
            self._owed = True
        if now >= self._due_s and not self._owed:
            self._set_pace(now)  # more may be known than when it was planned
            self._owed = now >= self._due_s
        return self._owed and self._ask(step, now)

    def count_to_fixed(self, step: int) -> int:
        """Return in how many steps, at the earliest, a checkpoint is due whatever the clock says."""
        policy = self._policy
        every = policy.every_steps - step % policy.every_steps if policy.every_steps else sys.maxsize
        return every if policy.at_step <= step else min(every, policy.at_step - step)

    def is_due_before_pause(self, step: int) -> bool:
        """Tell whether to cut before a validation, since afterwards more than the budget would have been at risk."""
        pace, now = self._saving.pace, time.monotonic()
        if not self._policy.is_paced or pace is None or step == self.last_cut_step:
            return False
        self._meter.pass_edge(step, now)
        most_s = self._policy.budget.max_loss_s
        pause_s = self._meter.pause_s
        until_durable_s = now - self._last_cut_s + (most_s / 2 if pause_s is None else pause_s)
        until_durable_s += (pace.durable_s or 0.0) + (pace.cost_s or 0.0)
        return until_durable_s > most_s and now - self._last_cut_s > (pause_s or 0.0) / 10 and self._ask(step, now)

    def allow(self, can: bool) -> bool:
        """Tell whether this edge can be saved. Several ranks ask each other."""
        return can

    def choose_loop_end(self, is_time: bool) -> bool:
        """Tell whether to save at the end of a loop. Rank 0 decides for several ranks."""
        return is_time

    def share_values(self, values: Values) -> Values:
        """Return what an evaluation measured. Several ranks take the same values."""
        return values

    def part(self) -> None:
        """Note that only the end is left. Several ranks part here."""

    def check(self, header: SnapshotHeader) -> None:
        """Raise `UnsupportedState` if this snapshot cannot be saved. Called after the first step, not after an hour."""
        encode_snapshot(header)

    def cut(self, header: SnapshotHeader, tensors: Mapping[str, Tensor]) -> None:
        """Copy the snapshot into staging memory. After that the writer makes it durable, even if this process dies."""
        begun = time.monotonic()
        self._meter.pass_edge(header.step, begun)
        asked, self._asked = self._asked, None
        self._owed = False
        self._last_cut_s = begun
        self._set_pace(begun)
        self._meter.begin_save(asked[1] if asked is not None and asked[0] == header.step else begun)
        try:
            memory = self._writer.stage(header, register=find_register(tensors.values()))
        except SaveError as error:
            self._note_failure(str(error))
            return
        copy_tensors(tensors, memory, on_copied=self._writer.note_copied)
        self._writer.submit()
        self.last_cut_step = header.step
        self._cut_s[header.step] = begun
        now = time.monotonic()
        self._meter.end_copy(now, blocked_s=now - begun)
        self._saving = msgspec.structs.replace(self._saving, last_cost_s=now - begun)

    def set_best(self, objective: Objective) -> None:
        """Tell the writer which of two checkpoints is better, once that is known."""
        self._writer.set_best(higher_is_better=objective.higher_is_better)

    def poll(self) -> None:
        """Read what the writer has reported so far, without waiting."""
        for event in self._writer.poll():
            self._note(event)
        if self._meter.measured != self._measured:
            self._measured = self._meter.measured
            self._set_pace(time.monotonic())
            self._write_saving()

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

    def _ask(self, step: int, now: float) -> bool:
        """Tell whether the writer can take a snapshot that is due."""
        self.poll()
        self._asked = (step, now) if self._writer.pending < _SLOTS else None
        return self._asked is not None

    def _set_pace(self, now: float) -> None:
        """Decide when the next checkpoint is due, with everything that is known now."""
        policy, budget, meter = self._policy, self._policy.budget, self._meter
        durable_s = max(self._durable_s, default=None)
        costs = None
        if durable_s is not None:
            cost_s = meter.cost_s
            costs = SaveCosts(
                # At worst, training stands still until the checkpoint is durable.
                durable_s if cost_s is None else cost_s, durable_s, meter.step_s or 0.0, self._checkpoint_bytes or 0
            )  # fmt: skip
        failure_every_s = self._failures.estimate_interval(now - self._begun_s)
        interval_s = at_risk_s = None
        delay_s = 0.0 if costs is None else costs.cost_s + costs.durable_s + max(costs.step_s, policy.late_s)
        reason: PaceReason
        if not policy.is_paced:
            reason = "fixed" if policy.every_s or policy.every_steps else "off"
            by_steps_s = policy.every_steps * meter.step_s if policy.every_steps and meter.step_s else math.inf
            shortest_s = min(policy.every_s or math.inf, by_steps_s)
            if shortest_s < math.inf:
                interval_s, at_risk_s = shortest_s, shortest_s + delay_s
            self._due_s = self._last_cut_s + (policy.every_s or math.inf)
        else:
            if self.last_cut_step is None or costs is None:
                reason, interval_s = "first", choose_first(costs, budget)
                at_risk_s = interval_s + delay_s
            else:
                choice = choose_interval(costs, budget, failure_every_s=failure_every_s)
                reason, interval_s, at_risk_s = choice.reason, choice.interval_s, choice.at_risk_s
            failing = self._saving.failure is not None
            self._due_s = self._last_cut_s + (min(interval_s, _FAILING_EVERY_S) if failing else interval_s)
        pace = Pace(
            reason=reason, interval_s=interval_s, every_s=policy.every_s, every_steps=policy.every_steps,
            at_risk_s=at_risk_s, cost_s=meter.cost_s, durable_s=durable_s, step_s=meter.step_s,
            checkpoint_bytes=self._checkpoint_bytes, failure_every_s=failure_every_s, max_loss_s=budget.max_loss_s,
            max_overhead=budget.max_overhead,
            bytes_a_day=budget.bytes_a_day if budget.bytes_a_day < math.inf else None,
        )  # fmt: skip
        self._saving = msgspec.structs.replace(self._saving, pace=pace, spent_s=meter.spent_s)

    def _note(self, event: WriterEvent) -> None:
        now = time.time()
        if isinstance(event, Durable):
            self.durable_step = event.step
            late_s = max(0.0, time.monotonic() - event.at_s)  # it is only read at a step edge
            cut_s = self._cut_s.pop(event.step, None)
            if cut_s is not None:
                self._durable_s.append(max(0.0, event.at_s - cut_s))
            self._cut_s = {step: at for step, at in self._cut_s.items() if step > event.step}
            self._checkpoint_bytes = event.bytes
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
                last_write_s=max(0.0, now - late_s - event.edge_time_s),
            )
        elif isinstance(event, SaveFailed):
            self._note_failure(event.sentence)
            return
        elif isinstance(event, WriterDied):
            _log.warning("%s", event.sentence)
            self._meter.give_up()
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
            if event.step == self.last_cut_step:
                self._meter.settle()
            return
        self._set_pace(time.monotonic())
        self._write_saving()

    def _note_failure(self, sentence: str) -> None:
        now = time.time()
        self._meter.give_up()
        if sentence != self._saving.failure:
            _log.warning("%s Training continues.", sentence)
        self._saving = msgspec.structs.replace(
            self._saving, time_s=now, failure=sentence, failing_since_s=self._saving.failing_since_s or now
        )
        self._set_pace(time.monotonic())
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
