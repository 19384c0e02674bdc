"""The session of a script: step edges where its own loops have them, and checkpoints only there."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from relight.checkpoints.snapshot_header import Reason
from relight.metrics.writer import MetricWriter
from relight.runs.layout import RunLayout
from relight.runs.records import AttemptStart, Objective
from relight.training.best_metric import BestMetric
from relight.training.metric_numbers import Values
from relight.training.progress_meter import Totals
from relight.training.script.position import ScriptPosition
from relight.training.script.restore import Restoration
from relight.training.script.script_stopping import ScriptStopping
from relight.training.script.state import ScriptState
from relight.training.session_parts import SessionParts
from relight.training.step_metrics import StepMetrics
from relight.training.stopping import Stop, TrainingStopped
from relight.training.training_session import TrainingSession
from relight.wording import name_some

NOTHING_TRACKED = (
    "Nothing is tracked, so the checkpoints contain no weights. Add run.track(model=model, optimizer=optimizer) before "
    "the loops."
)
_LOOP_END_EVERY_S = 2.0
"""A script may have many short loops, and not every end of one is worth a checkpoint."""
_log = logging.getLogger("relight")


class ScriptSession(TrainingSession):
    """A `TrainingSession` for loops that belong to the script.

    What a script does after its last step of an epoch (validation, a schedule's step) belongs to the epoch's body. So
    an evaluation is not a step edge: the best checkpoint is cut when the body is done, or when the weights are about
    to move before that, with the state of the last edge. A resume then evaluates again, from the same state.
    """

    state: ScriptState
    _stopping: ScriptStopping
    _how_to_swap = " Put a validation that swaps weights on purpose inside `with run.evaluating():`."

    def __init__(
        self,
        layout: RunLayout,
        start: AttemptStart,
        parts: SessionParts,
        *,
        stopping: ScriptStopping,
        state: ScriptState,
        position: ScriptPosition,
    ) -> None:
        super().__init__(layout, start, parts, stopping=stopping, state=state, position=position)
        stopping.must_wait = self._must_wait
        self.in_loop = False
        """Whether an outermost loop of the script is running."""
        self.holding = False
        """Whether the current step is the last of its loop over batches: saving and stopping wait for the body."""
        self._more = StepMetrics(MetricWriter(layout.metrics, stream="train", attempt=start.attempt))
        self._best_owed = self._warned_of_best = False
        self._cut_at_edge = self._deferred_edge = -1
        self._finishing = self._looked = False
        self._loop_ended_s = -_LOOP_END_EVERY_S

    @property
    def steps_total(self) -> int:
        """Steps of the whole run; 0 if unknown."""
        return 0 if self._meter is None else self._meter.totals.steps

    def begin_script(self, restored: Restoration | None) -> None:
        """Begin or resume the script's loops: write the first records, and check for a stop."""
        self._open_meter(Totals())
        work_s = 0.0
        if restored is not None and not restored.weights_only:
            self._take_over(restored.counters, restored.info, branch=restored.branch)
            work_s = float(restored.environment.get("work_s", 0.0))
        self._start_meter(work_s)
        if restored is not None and not restored.weights_only:
            self._find_retraced(restored.info)

    def plan(self, totals: Totals) -> None:
        """Set the totals that are known so far."""
        assert self._meter is not None
        self._meter.totals = totals

    def begin_update(self) -> None:
        """Before the weights change, cut the best checkpoint of the last edge if it is still due."""
        if self._best_owed and self._at_edge and not self._cut("best", at_edge=False):
            self._best_owed = False
            if not self._warned_of_best:
                self._warned_of_best = True
                _log.warning(
                    "The best weights so far, those of step %d, cannot be saved, because weights have changed between "
                    "that step and the next one.%s", self.steps_done, self._how_to_swap,
                )  # fmt: skip
        super().begin_update()

    def step_without_place(self, values: Values) -> None:
        """Count and log a step whose place in the data is unknown; it is not an edge that can be saved."""
        is_long = self._count_step(values)
        self._keep_edge()
        self._note_witness()
        self._forget_edge()
        self._best_owed = False
        if is_long:
            self._look_around()
            if self._drill is not None:
                self._drill.pass_edge(self.steps_done)
        self._leave_edge()

    def defer_edge(self) -> None:
        """Let the edge of this step count only when the loop goes on: the script may leave it right here.

        A resume does not repeat the code behind `run.step`, so it would train the rest of a pass that was left.
        """
        self._deferred_edge = self.state.edges
        self._recorded = False

    def settle_edge(self) -> None:
        """Take the edge that was deferred, if one was: the loop goes on."""
        if self._deferred_edge != self.state.edges:
            return
        now = self._open_edge()
        self._record_edge()
        if self._cutter.is_due(self.steps_done):
            self._cut("periodic")
        self._check_stop(now)
        self._leave_edge()

    def end_body(self) -> None:
        """End the body of an epoch: an edge, and the moment for a checkpoint that is due."""
        now = self._open_edge()
        self._record_edge()
        self._write_progress("training")
        if self._best_owed:
            self._cut("best")
        elif self._cutter.is_due(self.steps_done):
            self._cut("periodic")
        self._check_stop(now)
        self._leave_edge()

    def end_pass(self) -> None:
        """Note that a loop over a loader was left early: an edge of its own, so that a resume adds no batches."""
        if not self._at_edge and self._deferred_edge != self.state.edges:
            return
        saved = self._cut_at_edge == self.state.edges
        self._record_edge()
        if saved:
            self._cut("periodic")

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run a validation inside the block that may swap weights, if it puts them back."""
        if not self._at_edge or self.state.find_moved_weights():
            yield  # there is no edge to come back to
            return
        before = self.state.digest_weights()
        try:
            yield
        finally:
            changed = [name for name, digest in self.state.digest_weights().items() if digest != before.get(name)]
            if not changed:
                self.state.watch_weights()
            else:
                _log.warning(
                    "Some weights are different after run.evaluating(): %s. Put them back inside the block. Until the "
                    "next step edge, a crash falls back to the newest checkpoint.", name_some(changed),
                )  # fmt: skip

    def end_loop(self) -> None:
        """End an outermost loop. Later code may do anything with the weights, so save them now."""
        self._open_edge()
        self._record_edge()
        self._write_progress("training")
        now = time.monotonic()
        if self._cutter.choose_loop_end(now - self._loop_ended_s >= _LOOP_END_EVERY_S):
            self._cut("final")
            self._loop_ended_s = time.monotonic()
        elif self._best_owed:
            self._cut("best")
        self._leave_edge()

    def save_last_edge(self, reason: Reason) -> None:
        """Save the last step edge now: after its loops, the script may do anything with the weights.

        The script leaves its loop because it was told to, and not as it would have without that. So an edge that was
        deferred counts.
        """
        if self._deferred_edge == self.state.edges:
            self._deferred_edge, self._recorded = -1, True
        if self._cut_at_edge != self.state.edges:
            self._rescue(reason)

    def log(self, values: Values) -> None:
        """Log more values of the last finished step."""
        self._more.log(self.steps_done, values, time_s=time.time())

    def evaluated(self, values: Values) -> bool:
        """Log what was measured with the current weights; return whether it is the best so far. Not a step edge.

        Between an optimizer's step and `run.step`, the weights are those of the step that is about to be taken.
        """
        values = self._cutter.share_values(values)
        improved = self._note_evaluation(values, time.time(), step=self.steps_done + self._in_update)
        self._best_owed = self._best_owed or improved
        return improved

    def set_best(self, objective: Objective) -> None:
        """Choose the metric that decides which checkpoint is the best."""
        self.best = BestMetric(objective)
        self._cutter.set_best(objective)

    def finish(self) -> None:
        """Save the final state, unless the end of the last loop did, and wait until it is durable."""
        self._finishing = True
        super().finish()

    def stop(self, stop: Stop) -> bool:
        """Save as `stop` requests, unless this edge is already saved."""
        if stop.save and self._cut_at_edge == self.state.edges and not self._in_update:
            self._stopping.begin_saving()
            return self._wait_until_saved(stop)
        return super().stop(stop)

    def close(self, *, end_loader: bool = True) -> None:
        """Close everything."""
        with contextlib.suppress(RuntimeError):  # a CUDA error: the parent says so
            self._more.close()
        super().close(end_loader=end_loader)

    def _must_wait(self) -> bool:
        """Tell whether a stop has to wait for the next edge, since weights have moved and this one is lost."""
        return self.in_loop and self._at_edge and bool(self.state.find_moved_weights())

    def _check_savable(self) -> None:
        if not self.state.names:
            _log.warning("%s", NOTHING_TRACKED)
        super()._check_savable()

    def _check_stop(self, now: float) -> None:
        if self.holding:
            return
        if self._stopping.owes_checkpoint(now, look=self.state.bound_to_edge):
            self._rescue("signal", at_edge=True)
        try:
            super()._check_stop(now)
        except TrainingStopped as stopped:
            # Now, because the script may change the weights while it handles the exception.
            self._stopping.raised = stopped.stop
            if self._stopping.under_torchrun and stopped.stop.signal is None and not stopped.stop.orphaned:
                stopped.code = 0  # else torchrun would start again what a person has stopped
            self.stop(stopped.stop)
            raise

    def _cut(self, reason: Reason, *, at_edge: bool = True) -> bool:
        if self.holding and reason == "periodic":
            return False  # it stays due
        if self._finishing and reason == "final":
            is_staged = self._cut_at_edge == self.state.edges and not self._looked
            if is_staged and self._cutter.allow(self._cutter.failure is None):
                self._looked = True  # a second request means that it was not staged
                return True
            if not self._at_edge:  # the script trained on after the loops
                self._record_edge()
            elif self.state.bound_to_edge or self.state.find_moved_weights():
                self._record_edge()  # as it is now: later gradients, or weights that the script has set since
            else:
                at_edge = False
        if not super()._cut(reason, at_edge=at_edge):
            return False
        self._cut_at_edge = self.state.edges
        self._best_owed = False
        return True
