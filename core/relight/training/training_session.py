"""One attempt between its step edges: logs, cuts checkpoints, honors stops, restores. It knows no training loop.

The trainer drives it, and so can any loop of a person's own:

    session.track("model", model); session.track("optimizer", optimizer); session.track("loader", loader)
    session.begin(steps_total=…, epochs=…, batches=…)      # restored here in a resume
    for batch in loader:
        …                                                  # a step
        session.step({"loss": loss})                       # its step edge
    session.evaluated({"accuracy": accuracy})              # what "best" means
    session.finish()
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.snapshot_header import BEFORE_ANY_ATTEMPT, Reason, SnapshotHeader
from relight.checkpoints.store import CheckpointStore
from relight.errors import RelightError
from relight.metrics.writer import MetricWriter
from relight.runs.layout import RunLayout
from relight.runs.progress import Phase
from relight.runs.records import AttemptStart
from relight.training.metric_numbers import Values, to_numbers
from relight.training.progress_meter import ProgressMeter, Totals
from relight.training.ranks.rank_state import note_world_size, take_rank_state
from relight.training.ranks.ranked_stopping import agree_on_stop, encode_stop
from relight.training.retraced_steps import RetracedSteps, find_retraced_steps
from relight.training.session_parts import SessionParts
from relight.training.state.optimizer_state import call_before_update
from relight.training.state.rng import RngState
from relight.training.state.snapshot import describe_tensors
from relight.training.state.stored_tensors import StoredTensors
from relight.training.state.training_state import CapturedState, TrainingState
from relight.training.step_metrics import StepMetrics
from relight.training.step_witness import StepWitness
from relight.training.stopping import Stop, Stopping, TrainingStopped
from relight.wording import name_some

_SHORT_STEP_S = 0.001
"""Shorter steps share what need not be done at each of them: progress, witnesses, a look for requests to stop."""
_LOOK_EVERY_S = 0.01
_POLL_EVERY_S = 0.05
_DRAIN_S = 60.0
_FINAL_POLL_S = 0.5
_FINAL_DRAIN_S = 3600.0  # nothing else is left to do, and the writer reports problems
_FINAL_PATIENCE_S = 86_400.0
_FINAL_AGAIN_S = 5.0
_log = logging.getLogger("relight")


class DataPosition(Protocol):
    """A training's position in its data: a task's loader, or all loaders of a script."""

    epoch: int
    in_step: bool
    """Whether the steps themselves draw the batches; another thread may be any number of batches ahead."""

    @property
    def batch(self) -> int:
        """Batches of the pass under way that have been yielded."""

    def take_seen(self) -> int:
        """Return a digest of the batches that have been yielded since the last call; 0 for none."""

    def open(self) -> None:
        """Start the data-loading processes."""

    def close(self) -> None:
        """End the data-loading processes."""


class TrainingSession:
    """Everything an attempt does at its step edges. Not for two threads at once."""

    _how_to_swap = ""
    """What to do when weights are changed between step edges on purpose; begins with a space."""

    def __init__(
        self,
        layout: RunLayout,
        start: AttemptStart,
        parts: SessionParts,
        *,
        stopping: Stopping,
        state: TrainingState | None = None,
        position: DataPosition | None = None,
    ) -> None:
        """Take `state` and `position` from loops that have their own; otherwise `track` fills both."""
        self.steps_done = 0
        self.evaluated_step: int | None = None
        self.best = parts.best
        self.state = TrainingState() if state is None else state
        self._layout = layout
        self._start = start
        self._cutter = parts.cutter
        self._drill = parts.drill
        self._stopping = stopping
        self._environment = parts.environment
        self._train = StepMetrics(MetricWriter(layout.metrics, stream="train", attempt=start.attempt))
        self._validation = MetricWriter(layout.metrics, stream="validation", attempt=start.attempt)
        self._witness = StepWitness(layout.attempt(start.attempt).witness)
        self._retraced: RetracedSteps | None = None
        self._meter: ProgressMeter | None = None
        self._position = position
        self._edge_s = 0.0
        self._look_at = self._poll_at = 0.0
        self.group = parts.group
        """All ranks of the training; None for one process."""
        # A drill looks at every step, and so do several ranks, which must all look at the same ones.
        self._short_s = _SHORT_STEP_S if parts.drill is None and parts.group is None else 0.0
        self._told_step = -1
        self._in_update = False
        self._recorded = False
        self._checked = False
        self._score: float | None = None
        self._evaluation: dict[str, float] = {}

    def track(self, name: str, tracked: Any) -> None:
        """Make `tracked` part of the training state. The object named "loader" has the data position."""
        self.state.track(name, tracked)
        if name == "loader":
            self._position = tracked
        self.watch(tracked)

    def watch(self, tracked: Any) -> None:
        """If `tracked` is an optimizer, notice when it starts to change the training state."""
        if isinstance(tracked, torch.optim.Optimizer):
            call_before_update(tracked, self.begin_update)

    def read_position(self) -> tuple[int, dict[str, Any]]:
        """Return the step and the loader's state from which the attempt will continue; (0, {}) for the beginning."""
        if self._start.from_sequence is None or self._start.weights_only:
            return 0, {}
        store = CheckpointStore(self._layout.checkpoints)
        with store.open(store.find_sequence(self._start.from_sequence)) as reader:
            tree = reader.state
        return tree["counters"]["step"], tree["parts"].get("loader", {}).get("state", {})

    def begin(self, totals: Totals) -> CheckpointInfo | None:
        """Restore the state, start the loader, write the first progress record; return the checkpoint resumed from.

        The order matters: everything is loaded, then the loader's processes start, and only then the generators are
        put back, since all of that draws random numbers.
        """
        self._open_meter(totals)
        resumed, work_s = None, 0.0
        if self._start.from_sequence is None:
            self._open_position()
        else:
            resumed, work_s = self._restore(self._start.from_sequence)
        self._start_meter(work_s)
        if resumed is not None:
            self._find_retraced(resumed)
        return resumed

    def begin_update(self) -> None:
        """Note that the training state starts to change; after the next `step` it is consistent again."""
        self._stopping.interruptible = False
        self._in_update = True

    def step(self, values: Values) -> None:
        """Take a step edge: optimizer, schedule and average have all moved. `values` are this step's train metrics.

        Raises `TrainingStopped` when the training is to stop here.
        """
        is_long = self._count_step(values)
        self.state.accumulating = not self._in_update
        self._keep_edge()
        self._note_witness()
        if is_long:
            self._look_around()
        if not self._checked:
            self._check_savable()
        if self._cutter.is_due(self.steps_done):
            self._cut("periodic")
        if is_long:
            if self._drill is not None:
                self._drill.pass_edge(self.steps_done)
            self._check_stop(self._edge_s)
        self._leave_edge()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run a validation inside the block. If it is interrupted, a resume repeats it from the same step edge."""
        self._train.flush()
        if self._at_edge and self._cutter.is_due_before_pause(self.steps_done):
            self._cut("periodic", at_edge=False)
        self._look_around("validating")
        with self._stopping.allow_interruption():
            yield
        self._write_progress("training")

    def check_stop(self) -> None:
        """Raise `TrainingStopped` if a stop is requested; for long stretches without a step edge."""
        now = time.time()
        self._poll(now)
        if not self.state.bound_to_edge:
            self._check_stop(now)

    def evaluated(self, values: Values) -> bool:
        """Log what a validation measured, and save the current state if it is the best; return whether it is.

        This is a step edge too: the state is recorded again, so a resume does not repeat the validation.
        """
        self._stopping.interruptible = False
        now = time.time()
        improved = self._note_evaluation(values, now, step=self.steps_done)
        self._record_edge()
        self._write_progress("training")
        if improved and not self._is_last():
            self._cut("best")
        elif self._cutter.is_due(self.steps_done) and not self._is_last():
            self._cut("periodic")
        self._check_stop(now)
        self._leave_edge()
        return improved

    def finish(self) -> None:
        """Save the final state and wait until it is durable.

        While it cannot be saved (a full disk) this waits for better times, up to a day: the result of the whole
        training is in memory. Raises `TrainingStopped` when somebody will not wait for that, `RelightError` when
        nothing has helped.
        """
        self._stopping.begin_saving()
        self._train.flush()
        self._write_progress("saving")
        begun = time.monotonic()
        failed = False
        if not self._cut("final"):
            raise RelightError(
                "The training is done, but its final state could not be saved: later changes can no longer be "
                "separated from it."
            )
        self._cutter.part()
        cut_at = begun
        while not (self._cutter.drain(_FINAL_POLL_S) and self._cutter.durable_step == self.steps_done):
            failure = self._cutter.failure
            if lost := self._cutter.lost:
                raise RelightError(f"The training is done, but its final state is not saved. {lost}")
            if failure is not None:
                if not failed:
                    failed = True
                    _log.warning("The training is done. Its final state waits in memory until it can be saved.")
                if (stop := self._stopping.check(time.time())) is not None:
                    raise TrainingStopped(stop)
                time.sleep(_FINAL_POLL_S)
            if not self._cutter.has_work:
                # The final state was not staged, or an older one took its place.
                time.sleep(_FINAL_POLL_S)
                if time.monotonic() - cut_at >= _FINAL_AGAIN_S:
                    self._cut("final")
                    cut_at = time.monotonic()
            if time.monotonic() - begun >= (_FINAL_DRAIN_S if failure is None else _FINAL_PATIENCE_S):
                failure = failure or f"it took more than {_FINAL_DRAIN_S:.0f} s."
                raise RelightError(f"The training is done, but its final state could not be saved: {failure}")
        self._write_progress("finished")

    def stop(self, stop: Stop) -> bool:
        """Save as `stop` requests; return whether the last finished step is, or is about to become, a checkpoint."""
        self._stopping.begin_saving()
        if not stop.save or not self._rescue(stop.why):
            return False
        return self._wait_until_saved(stop)

    def rescue(self) -> bool:
        """After an exception, save the last finished step if its state is still exact; return whether it is saved."""
        self._stopping.begin_saving()
        if self._cutter.last_cut_step != self.steps_done and not self._rescue("exception"):
            return False
        return self._cutter.drain(_DRAIN_S)

    def close(self, *, end_loader: bool = True) -> None:
        """Close files and loader, and disconnect from the writer, which finishes on its own.

        Without `end_loader` nothing waits for data-loading processes, which end with this one.
        """
        try:
            self._train.close()
        except RuntimeError as error:  # a CUDA error: pending values can no longer be read
            _log.warning("The last steps' metrics could not be read back: %s", error)
        self._validation.close()
        self._flush_witness()
        self._witness.close()
        if self._retraced is not None:
            self._retraced.close()
        self._cutter.close()
        if self._meter is not None:
            if self._told_step != self.steps_done:
                self._write_progress("training")
            self._meter.close()
        if end_loader and self._position is not None:
            self._position.close()

    def _wait_until_saved(self, stop: Stop) -> bool:
        # An orphaned trainer has one second to live. The writer outlives it and saves on its own.
        return stop.orphaned or self._cutter.drain(_DRAIN_S)

    def _open_meter(self, totals: Totals) -> None:
        self._meter = ProgressMeter(self._layout.attempt(self._start.attempt).progress, totals)

    def _start_meter(self, work_s: float) -> None:
        """Start the first step, `work_s` seconds of training after the start of the run: an edge like any other."""
        assert self._meter is not None
        if (group := self.group) is not None:
            stopping = self._stopping
            stopping.together = lambda stop: agree_on_stop(group, stop)
            group.find_stop = lambda: encode_stop(stopping.find_own(time.time()))
        now = time.time()
        self._edge_s = now
        self._meter.start(step=self.steps_done, work_s=work_s, now=now)
        self._record_edge()
        self._write_progress("training")
        self._check_stop(now)
        self._leave_edge()

    def _open_edge(self) -> float:
        """Begin an uninterruptible step edge at the current time, and return that time."""
        self._stopping.interruptible = False
        self._edge_s = now = time.time()
        return now

    def _count_step(self, values: Values) -> bool:
        """Begin the edge of the next step, and log its metrics; return whether it is time to look around.

        Between steps of less than a millisecond even a look at a file is felt, so those look every ten milliseconds.
        """
        stopping, before = self._stopping, self._edge_s
        stopping.interruptible = False
        self._edge_s = now = time.time()
        step = self.steps_done = self.steps_done + 1
        if self.evaluated_step != step:
            self._score = None
        self._train.log(step, values, time_s=now)
        # A clock that was set back must not delay anything.
        return not before <= now < before + self._short_s or now >= self._look_at or stopping.urgent

    def _look_around(self, phase: Phase = "training") -> None:
        """Do what is not done at the edge of each short step, except for stopping."""
        now = self._edge_s
        self._look_at = now + _LOOK_EVERY_S
        self._write_progress(phase)
        self._flush_witness()
        self._poll(now)

    def _poll(self, now: float) -> None:
        """Read the writer's messages from time to time. A clock that was set back delays nothing."""
        if not 0.0 < self._poll_at - now <= _POLL_EVERY_S:
            self._poll_at = now + _POLL_EVERY_S
            self._cutter.poll()

    def _find_retraced(self, resumed: CheckpointInfo) -> None:
        """Find the steps after the checkpoint that an earlier attempt has trained: they must come out the same."""
        self._retraced = find_retraced_steps(self._layout, self._start, resumed, environment=self._environment)

    def _note_witness(self) -> None:
        """Leave a witness of the step just taken."""
        state, position = self.state, self._position
        batch = 0 if position is None else position.take_seen()
        generators: RngState | None = state.generators
        if position is not None and not position.in_step:  # what has been drawn by now depends on the time
            batch, generators = 0, None
        self._witness.note(
            self.steps_done, batch=batch, generators=generators, optimizers=state.optimizers,
            weights=state.weights_sample,
        )  # fmt: skip

    def _flush_witness(self) -> None:
        """Write the witnesses, and compare them with those of an earlier attempt."""
        noted = self._witness.flush()
        if self._retraced is not None:
            for step, *digests in noted:
                self._retraced.compare(step, digests)
                if self._retraced.over:
                    self._retraced = None
                    break

    def _note_evaluation(self, values: Values, now: float, *, step: int) -> bool:
        """Log what a validation measured on the state of `step`; return whether that is the best so far."""
        if self._drill is not None:
            self._drill.pass_validation(self.steps_done)
        numbers = to_numbers(values)
        if numbers:
            self._validation.log(step, numbers, time_s=now)
        named = {f"validation/{name}": value for name, value in numbers.items()}
        again = self.evaluated_step == step
        self._evaluation = {**self._evaluation, **named} if again else named
        self.evaluated_step = step
        score = named.get(self.best.name or "")
        if score is not None or not again:
            self._score = score
        return self.best.offer(score, step=step)

    def _is_last(self) -> bool:
        assert self._meter is not None
        return self.steps_done >= self._meter.totals.steps > 0

    @property
    def _at_edge(self) -> bool:
        """Whether the recorded state is still that of a step edge: no update has begun since."""
        return self._recorded and not self._in_update

    def _record_edge(self) -> None:
        """Keep this step edge. What has been yielded before it belongs to no later step."""
        self._keep_edge()
        if self._position is not None:
            self._position.take_seen()

    def _keep_edge(self) -> None:
        """Keep the small state of this step edge; the update that led to it is over."""
        self.state.record_edge(
            {"step": self.steps_done, "evaluated_step": self.evaluated_step, "best": self.best.state}
        )
        self._recorded = True
        self._in_update = False

    def _forget_edge(self) -> None:
        """End the update without an edge: no state can be saved until the next one."""
        self._recorded = self._in_update = False

    def _write_progress(self, phase: Phase) -> None:
        assert self._meter is not None
        position, best = self._position, self.best
        self._told_step = self.steps_done
        self._meter.write(
            step=self.steps_done,
            epoch=position.epoch if position is not None else 0,
            batch=position.batch if position is not None else 0,
            now=self._edge_s,
            phase=phase,
            best_step=-1 if best.step is None else best.step,
            best_value=math.nan if best.value is None else best.value,
        )

    def _check_stop(self, now: float) -> None:
        stop = self._stopping.check(now)
        if stop is None and self._drill is not None:
            stop = self._drill.find_end(self.steps_done)
        if stop is None:
            return
        if stop.save and self.state.bound_to_edge:
            self._stopping.begin_saving()
            self._rescue(stop.why, at_edge=True)  # now or never
        raise TrainingStopped(stop)

    def _leave_edge(self) -> None:
        """Let a signal wait for the next edge if this one is between two updates: there is nothing exact to save."""
        self._stopping.interruptible = not self.state.bound_to_edge

    def _check_savable(self) -> None:
        captured = self.state.capture(at_edge=True)
        if captured is None:
            return
        self._checked = True
        self._cutter.check(self._describe(captured, "periodic"))

    def _cut(self, reason: Reason, *, at_edge: bool = True) -> bool:
        captured = self.state.capture(at_edge=at_edge)
        if not self._cutter.allow(captured is not None) or captured is None:
            return False
        self._train.flush()
        self._flush_witness()
        self._cutter.cut(self._describe(captured, reason), captured.tensors)
        return True

    def _rescue(self, reason: Reason, *, at_edge: bool = False) -> bool:
        if not self._at_edge or (reason == "exception" and not self._cutter.can_rescue):
            return False
        if not at_edge and (moved := self.state.find_moved_weights()):
            _log.warning(
                "Step %d cannot be saved, because weights have changed since: %s.%s", self.steps_done,
                name_some(moved), self._how_to_swap,
            )  # fmt: skip
            return False
        try:
            return self._cut(reason, at_edge=at_edge)
        except Exception as error:  # the device may be in an error state, with nothing exact to save
            _log.warning("The state of step %d could not be saved: %s", self.steps_done, error)
            return False

    def _describe(self, captured: CapturedState, reason: Reason) -> SnapshotHeader:
        assert self._meter is not None
        metrics = {f"train/{name}": value for name, value in self._train.latest.items()}
        if self.evaluated_step == self.steps_done:
            metrics.update(self._evaluation)
        return SnapshotHeader(
            step=self.steps_done,
            epoch=_epoch_of(captured),
            reason=reason,
            time_s=self._edge_s,
            metrics=metrics,
            score=self._score,
            environment={**self._environment, "work_s": self._meter.work_s(self._edge_s)},
            attempt=self._start.attempt,
            tensors=describe_tensors(captured.tensors, captured.slices),
            state=captured.tree,
        )

    def _open_position(self) -> None:
        if self._position is not None:
            self._position.open()

    def _restore(self, sequence: int) -> tuple[CheckpointInfo | None, float]:
        """Restore from the checkpoint with that sequence number; return it and its seconds of training.

        When only weights are taken over, the run starts at step 0: then there is no checkpoint to return.
        """
        store = CheckpointStore(self._layout.checkpoints)
        info = store.find_sequence(sequence)
        with store.open(info) as reader:
            tree = take_rank_state(reader.state, self.group)
            read = StoredTensors(reader)
            if self._start.weights_only or tree.get("weights_only"):
                self.state.restore_modules(tree, read)
                self._open_position()
                return None, 0.0
            branch = self._start.reason == "branch"
            counters = self.state.restore(tree, read, branch=branch)
            self._take_over(counters, info, branch=branch)
            self._open_position()
            self.state.restore_rng(tree, read)
            note_world_size(tree, self.group)
            copied = info.attempt == BEFORE_ANY_ATTEMPT  # a branch does not count its parent's time
            return info, 0.0 if copied else float(reader.environment.get("work_s", 0.0))

    def _take_over(self, counters: Mapping[str, Any], info: CheckpointInfo, *, branch: bool) -> None:
        """Continue the counters and the best value from the checkpoint `info`."""
        self.steps_done = counters["step"]
        self.evaluated_step = counters["evaluated_step"]
        if branch:  # only this one of the parent's checkpoints is in this run
            self.best.offer(info.score, step=info.step)
        else:
            self.best.restore(counters["best"])
        if self.evaluated_step == self.steps_done:
            self._score = info.score
            self._evaluation = {k: v for k, v in info.metrics.items() if k.startswith("validation/")}


def _epoch_of(captured: CapturedState) -> int:
    position = captured.tree["parts"].get("loader", {}).get("state", {})
    return int(position.get("epochs_done", 0))
