"""Checkpoints are cut when they are due, and the training continues if the disk cannot take them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from relight.checkpoints.snapshot_header import SnapshotHeader
from relight.checkpoints.writer_channel import Durable, SaveFailed, Verified, WriterDied, WriterEvent, WriterStarted
from relight.errors import SaveError, UnsupportedState
from relight.runs.failures import FailureHistory
from relight.runs.layout import AttemptLayout
from relight.runs.process_identity import current_process
from relight.runs.record_file import read_record
from relight.runs.records import Pace, ProcessIdentity, SavingState
from relight.training import checkpoint_cutter as module
from relight.training.checkpoint_cutter import CheckpointCutter, CutPolicy, Experience
from relight.training.pacing import Budget
from relight.training.state.snapshot import describe_tensors

TENSORS = {"w": torch.arange(3.0)}


class Writer:
    """Accepts snapshots like the real client, and reports the events that the test chooses."""

    def __init__(self) -> None:
        self.staged: list[SnapshotHeader] = []
        self.memory = bytearray(12)
        self.submitted = self.pending = self.unfinished = 0
        self.events: list[WriterEvent] = []
        self.refuse: Exception | None = None
        self.identity = current_process()

    def stage(self, header: SnapshotHeader, *, register: None) -> list[memoryview]:
        if self.refuse is not None:
            raise self.refuse
        self.staged.append(header)
        return [memoryview(self.memory)]

    def note_copied(self, count: int) -> None:
        assert count == 1, "there is one tensor"

    def submit(self) -> None:
        self.submitted += 1
        self.pending += 1
        self.unfinished += 1

    def poll(self) -> list[WriterEvent]:
        events, self.events = self.events, []
        self.pending -= sum(isinstance(event, Durable | SaveFailed) for event in events)
        self.unfinished -= sum(isinstance(event, Durable) for event in events)
        return events

    def drain(self, timeout_s: float) -> list[WriterEvent]:
        return self.poll()


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def layout(tmp_path: Path) -> AttemptLayout:
    layout = AttemptLayout(tmp_path / "0002", 2)
    layout.folder.mkdir()
    return layout


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("relight")
    earlier, logger.propagate = logger.propagate, True
    caplog.set_level(logging.INFO, logger="relight")
    yield caplog
    logger.propagate = earlier


def describe(step: int, **more: Any) -> SnapshotHeader:
    facts = {"step": step, "epoch": 0, "attempt": 2, "reason": "periodic", "time_s": 5.0}
    return SnapshotHeader(**facts | {"tensors": describe_tensors(TENSORS), "state": {"a": 1}} | more)


def durable(step: int, at_s: float | None = None) -> Durable:
    at_s = module.time.monotonic() if at_s is None else at_s
    return Durable(slot=0, step=step, sequence=1, edge_time_s=5.0, at_s=at_s, bytes=12)


def test_the_clock_and_the_step_count_each_make_a_checkpoint_due(
    layout: AttemptLayout, writer: Writer, clock: type[Clock]
) -> None:
    cutter = CheckpointCutter(layout, policy=CutPolicy(every_s=30.0, every_steps=10), writer=writer)  # type: ignore[arg-type]
    assert [step for step in range(1, 10) if cutter.is_due(step)] == []
    assert cutter.is_due(10)
    cutter.cut(describe(10), TENSORS)
    writer.events.append(durable(10))
    assert not cutter.is_due(10), "the same step is not due twice"
    clock.now += 29.9
    assert not cutter.is_due(11)
    clock.now += 0.2
    assert cutter.is_due(12)


def test_neither_clock_nor_steps_means_no_periodic_checkpoint(layout: AttemptLayout, writer: Writer) -> None:
    cutter = CheckpointCutter(layout, policy=CutPolicy(every_s=0.0, every_steps=0), writer=writer)  # type: ignore[arg-type]
    assert not any(cutter.is_due(step) for step in range(1, 1000))


def test_while_both_slots_are_busy_a_checkpoint_stays_due_until_one_is_free(
    layout: AttemptLayout, writer: Writer
) -> None:
    cutter = CheckpointCutter(layout, policy=CutPolicy(every_s=0.0, every_steps=5), writer=writer)  # type: ignore[arg-type]
    for step in (5, 10):
        assert cutter.is_due(step)
        cutter.cut(describe(step), TENSORS)
    assert not cutter.is_due(15)
    writer.events.append(durable(5))
    assert cutter.is_due(16)


def test_a_snapshot_carries_what_was_measured_and_the_bytes(layout: AttemptLayout, writer: Writer) -> None:
    cutter = CheckpointCutter(layout, policy=CutPolicy(), writer=writer)  # type: ignore[arg-type]
    cutter.cut(describe(7, reason="best", score=0.5, metrics={"validation/loss": 0.5}), TENSORS)
    header = writer.staged[0]
    assert (header.step, header.reason, header.score, header.attempt) == (7, "best", 0.5, 2)
    assert [(one.name, one.dtype, one.shape) for one in header.tensors] == [("w", "F32", (3,))]
    assert bytes(writer.memory) == bytes(torch.arange(3.0).view(torch.uint8).tolist())
    assert writer.submitted == 1


def test_a_failing_save_is_said_once_and_training_goes_on_until_it_works_again(
    layout: AttemptLayout, writer: Writer, warnings: pytest.LogCaptureFixture
) -> None:
    cutter = CheckpointCutter(layout, policy=CutPolicy(every_s=0.0, every_steps=1), writer=writer)  # type: ignore[arg-type]
    for step in (1, 2):
        assert cutter.is_due(step)
        cutter.cut(describe(step), TENSORS)
        writer.events.append(SaveFailed(0, step, "The disk is full."))
        cutter.poll()
    state = read_record(layout.saving, SavingState)
    assert (state.failure, state.durable_step) == ("The disk is full.", None)
    assert state.failing_since_s is not None
    assert [record.message for record in warnings.records] == ["The disk is full. Training continues."]
    assert not cutter.drain(1.0)

    assert cutter.is_due(3)
    cutter.cut(describe(3), TENSORS)
    writer.events.append(durable(3))
    assert cutter.drain(1.0)
    state = read_record(layout.saving, SavingState)
    assert (state.failure, state.failing_since_s, state.durable_step, state.durable_time_s) == (None, None, 3, 5.0)
    assert "Saving works again" in warnings.records[-1].message


def test_draining_waits_for_each_of_two_snapshots_of_one_step(layout: AttemptLayout, writer: Writer) -> None:
    cutter = CheckpointCutter(layout, policy=CutPolicy(), writer=writer)  # type: ignore[arg-type]
    cutter.cut(describe(4), TENSORS)
    cutter.cut(describe(4, reason="final"), TENSORS)
    writer.events.append(durable(4))
    assert not cutter.drain(1.0)
    assert cutter.has_work
    writer.events.append(durable(4))
    assert cutter.drain(1.0)
    assert not cutter.has_work


def test_no_memory_for_a_snapshot_is_a_failure_to_save_not_to_train(layout: AttemptLayout, writer: Writer) -> None:
    cutter = CheckpointCutter(layout, policy=CutPolicy(), writer=writer)  # type: ignore[arg-type]
    writer.refuse = SaveError("There is no memory.")
    cutter.cut(describe(1), TENSORS)
    assert cutter.failure == "There is no memory."
    assert cutter.last_cut_step is None


def test_a_state_that_cannot_be_saved_is_known_before_the_first_save(layout: AttemptLayout, writer: Writer) -> None:
    cutter = CheckpointCutter(layout, policy=CutPolicy(), writer=writer)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedState, match=r"\['scheduler'\]\['fn'\]"):
        cutter.check(describe(1, state={"scheduler": {"fn": lambda: 1}}))


def test_a_writer_that_died_and_was_replaced_is_on_record(layout: AttemptLayout, writer: Writer) -> None:
    cutter = CheckpointCutter(layout, policy=CutPolicy(), writer=writer)  # type: ignore[arg-type]
    layout.writer.unlink()
    writer.events.append(WriterDied(True, "The writer was killed; another one took over."))
    cutter.poll()
    assert read_record(layout.writer, ProcessIdentity).pid == writer.identity.pid
    writer.events.append(WriterDied(False, "The writer was killed, again."))
    cutter.poll()
    assert cutter.failure == "The writer was killed, again."
    layout.writer.unlink()
    writer.events.append(WriterStarted("Another one was started."))
    cutter.poll()
    assert read_record(layout.writer, ProcessIdentity).pid == writer.identity.pid
    assert cutter.failure is not None, "until a checkpoint is durable, nothing is known to work"


KNOWN = Pace(reason="balance", interval_s=100.0, cost_s=0.5, durable_s=2.0, step_s=0.1, checkpoint_bytes=12)


class Loop:
    """A training on the test's clock: steps of `step_s`, which take half as long again while a save is in flight."""

    def __init__(
        self, cutter: CheckpointCutter, writer: Writer, clock: type[Clock], *, step_s: float, durable_s: float = 4.0
    ) -> None:
        self.cutter, self.writer, self.clock = cutter, writer, clock
        self.step_s, self.durable_s = step_s, durable_s
        self.begun_s = clock.now
        self.step = 0
        self.cuts: list[float] = []
        self.lost_s = 0.0
        self.worst_s = 0.0
        self._waiting: list[tuple[float, float, WriterEvent]] = []
        self._durable_edge_s = clock.now

    def train(self, seconds: float) -> None:
        end_s = self.clock.now + seconds
        while self.clock.now < end_s:
            slower_s = self.step_s / 2 if self._waiting else 0.0
            self.lost_s += slower_s
            self.clock.now += self.step_s + slower_s
            self.step += 1
            self._deliver()
            self._pass_edge()

    def validate(self, seconds: float) -> None:
        if self.cutter.is_due_before_pause(self.step):
            self._cut()
        self.clock.now += seconds
        self._deliver()
        self._pass_edge()

    def _pass_edge(self) -> None:
        self.worst_s = max(self.worst_s, self.clock.now - self._durable_edge_s)
        if self.cutter.is_due(self.step):
            self._cut()
        self.cutter.poll()

    def _cut(self) -> None:
        now = self.clock.now
        self.cuts.append(now - self.begun_s)
        self.cutter.cut(describe(self.step), TENSORS)
        if self.writer.refuse is not None:
            return
        durable_s = now + self.durable_s
        self._waiting += [
            (durable_s, now, durable(self.step, durable_s)),
            (durable_s + 2.0, 0.0, Verified(self.step, 1)),
        ]

    def _deliver(self) -> None:
        for due_s, edge_s, event in self._waiting:
            if due_s <= self.clock.now:
                self.worst_s = max(self.worst_s, due_s - self._durable_edge_s)
                self._durable_edge_s = max(self._durable_edge_s, edge_s)
                self.writer.events.append(event)
        self._waiting = [one for one in self._waiting if one[0] > self.clock.now]


def _pace(layout: AttemptLayout) -> Pace:
    pace = read_record(layout.saving, SavingState).pace
    assert pace is not None
    return pace


def test_the_first_checkpoint_comes_early_and_its_cost_decides_when_the_next_is_due(
    layout: AttemptLayout, writer: Writer, clock: type[Clock]
) -> None:
    cutter = CheckpointCutter(layout, policy=CutPolicy(), writer=writer)  # type: ignore[arg-type]
    assert (_pace(layout).reason, _pace(layout).interval_s) == ("first", 20.0)
    loop = Loop(cutter, writer, clock, step_s=0.1)
    loop.train(1200)
    assert loop.cuts[0] == pytest.approx(20, abs=0.2)
    pace = _pace(layout)
    assert pace.cost_s == pytest.approx(2.0, abs=0.2), "6 s at two thirds of the speed"
    assert pace.durable_s == pytest.approx(4.0, abs=0.2)
    assert pace.interval_s == pytest.approx(300 - 4 - 2 - 0.1, abs=0.5), "sqrt(2 * 2.0 * 86 400) would be 588"
    assert pace.reason == "loss"
    assert [later - earlier for earlier, later in pairwise(loop.cuts)] == pytest.approx([294, 294, 294, 294], abs=1)


def test_a_resume_starts_from_what_was_measured_before(
    layout: AttemptLayout, writer: Writer, clock: type[Clock]
) -> None:
    experience = Experience(KNOWN, FailureHistory(9_000.0, failures=8))
    cutter = CheckpointCutter(layout, policy=CutPolicy(), writer=writer, experience=experience)  # type: ignore[arg-type]
    assert (_pace(layout).reason, _pace(layout).interval_s, _pace(layout).cost_s) == ("first", 45.0, 0.5)
    loop = Loop(cutter, writer, clock, step_s=0.1)
    loop.train(50)
    assert loop.cuts == pytest.approx([45], abs=0.2)
    pace = _pace(layout)
    assert pace.failure_every_s == pytest.approx((86_400 + 9_000 + 50) / 9, rel=0.01)


@pytest.mark.parametrize(
    ("policy", "cuts", "reason"),
    [
        (CutPolicy(every_s=50.0), [50, 100, 150, 200, 250], "fixed"),
        (CutPolicy(every_steps=1000), [100, 200], "fixed"),
        (CutPolicy(every_s=70.0, every_steps=1000), [70, 100, 170, 200, 270], "fixed"),
        (CutPolicy(every_s=0.0), [], "off"),
    ],
)
def test_what_a_person_fixes_counts_whatever_the_budget_says(
    layout: AttemptLayout, writer: Writer, clock: type[Clock], policy: CutPolicy, cuts: list[float], reason: str
) -> None:
    policy = replace(policy, budget=Budget(max_loss_s=5.0))
    experience = Experience(KNOWN)
    cutter = CheckpointCutter(layout, policy=policy, writer=writer, experience=experience)  # type: ignore[arg-type]
    loop = Loop(cutter, writer, clock, step_s=0.1, durable_s=0.0)
    loop.train(290)
    assert loop.cuts == pytest.approx(cuts, abs=10)
    assert _pace(layout).reason == reason


@pytest.mark.parametrize("validation_s", [0.5, 40.0, 200.0])
@pytest.mark.parametrize("step_s", [0.1, 2.0, 25.0])
def test_a_day_within_the_budget(
    layout: AttemptLayout, writer: Writer, clock: type[Clock], step_s: float, validation_s: float
) -> None:
    cutter = CheckpointCutter(layout, policy=CutPolicy(), writer=writer)  # type: ignore[arg-type]
    loop = Loop(cutter, writer, clock, step_s=step_s)
    hours = 2 if step_s < 1 else 24
    for _ in range(2 * hours):
        loop.train(1_800)
        loop.validate(validation_s)
    assert loop.cuts[0] <= max(25, step_s)
    assert loop.worst_s <= 300.0
    trained_s = clock.now - loop.begun_s
    spent_s = read_record(layout.saving, SavingState).spent_s
    assert loop.lost_s / trained_s <= (0.01 if step_s < 10 else 0.05), "a step of 25 s is slow as a whole"
    assert spent_s == pytest.approx(loop.lost_s, rel=0.2)


def test_a_promise_that_the_disk_cannot_keep_saves_without_a_break_and_says_so(
    layout: AttemptLayout, writer: Writer, clock: type[Clock]
) -> None:
    policy = CutPolicy(budget=Budget(max_loss_s=30.0))
    cutter = CheckpointCutter(layout, policy=policy, writer=writer)  # type: ignore[arg-type]
    loop = Loop(cutter, writer, clock, step_s=0.5, durable_s=60.0)
    loop.train(1_000)
    assert _pace(layout).reason == "loss"
    assert _pace(layout).interval_s == pytest.approx(60, abs=1)
    assert loop.worst_s <= (_pace(layout).at_risk_s or 0.0) < 190


def test_while_nothing_can_be_saved_the_snapshot_that_waits_is_not_an_old_one(
    layout: AttemptLayout, writer: Writer, clock: type[Clock]
) -> None:
    cutter = CheckpointCutter(layout, policy=CutPolicy(), writer=writer, experience=Experience(KNOWN))  # type: ignore[arg-type]
    loop = Loop(cutter, writer, clock, step_s=0.1)
    loop.train(60)
    writer.refuse = SaveError("There is no memory.")
    loop.train(900)
    cuts = [later - earlier for earlier, later in pairwise(loop.cuts[1:])]
    assert len(cuts) > 15
    assert cuts == pytest.approx([30.0] * len(cuts), abs=0.3)
