"""Drives a script's loops: begins the session with the first one, takes the step edges, and guides a resume back.

`run.epochs`, `run.steps` and the passes over loaders report here, and ask what comes next.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Literal

import torch
from torch import nn

from relight.errors import UsageError
from relight.training.metric_numbers import Values, to_numbers
from relight.training.script.fetched_ahead import find_fetched_ahead
from relight.training.script.loader_watch import LoaderWatch
from relight.training.script.loop_leaving import is_left_at_end, is_left_by_choice
from relight.training.script.loop_source import (
    Consumer,
    Doubt,
    feeds_running_loop,
    find_consumer,
    is_inside,
    judge_step,
    list_new_generators,
    may_leave_after_step,
)
from relight.training.script.loops import Level, Loop, LoopStack
from relight.training.script.plan import ScriptPlan
from relight.training.script.position import ScriptPosition
from relight.training.script.restore import Restoration
from relight.training.script.resumed_enumerate import ResumedEnumerate
from relight.training.script.script_attempt import ScriptAttempt
from relight.training.script.script_session import ScriptSession
from relight.training.script.state import ScriptState

_LOOKS = 100
"""Number of steps after which the driver checks that nothing moves behind `run.step`; a check takes 6 µs."""
_log = logging.getLogger("relight")


class LoopDriver:
    """The loops of one attempt of a script, and everything that depends on the script's place in them."""

    def __init__(self, attempt: ScriptAttempt, *, enumerating: ResumedEnumerate) -> None:
        self.loops = LoopStack(on_arrival=self._arrive)
        self.position = ScriptPosition()
        self.session: ScriptSession | None = None
        """None until the script has begun its first loop or, in a resume, has reached its place."""
        self._attempt = attempt
        self._enumerating = enumerating
        self._made_before: list[FrameType] = []
        self._is_child = False
        os.register_at_fork(after_in_child=self._note_fork)
        self._plan = ScriptPlan(self.loops, self.position)
        self._state = ScriptState(self.position)
        self._restoration: Restoration | None = None
        self._early: Mapping[str, Any] = {}
        self._warned = False
        self._looked_ahead = False
        self._used_up = False
        """Whether the pass that fed a loop of `run.steps` has ended."""
        self._stepped = False
        self._looks = _LOOKS
        self._loaders = LoaderWatch()
        self._loaders.install()
        self._warned_of_loader = False
        self._unplaced = 0
        self._max_steps = attempt.options.max_steps
        if attempt.start.from_sequence is not None:
            self._restoration = Restoration(attempt.layout, attempt.start, self._state, group=attempt.group)
            place = self._restoration.place
            if place is not None:
                enumerating.install()
                self.loops.seek(place)

    @property
    def has_ranks(self) -> bool:
        """Whether this is one of several ranks."""
        return self._attempt.group is not None

    @property
    def is_leaving(self) -> bool:
        """Whether the script is being ended, so that loops that close mean nothing."""
        return self._attempt.is_leaving

    def track(self, name: str, thing: Any) -> None:
        """Add `thing` to the training state; in a resume, restore it."""
        names = self._state.add(name, thing)
        if self.session is not None:
            self._watch(self.session)
            if self.loops.depth:
                _log.warning(
                    "run.track(%s=…) was called inside the loops. A resume that continues after that place cannot "
                    "restore it. Track everything before the loops.", name,
                )  # fmt: skip
        if self._restoration is not None:
            self._restoration.restore(names)

    def iterate(self, kind: Literal["epochs", "steps"], count: int) -> Iterator[int]:
        """Yield the remaining iterations of a loop of kind "epochs" or "steps"."""
        loop = self._begin(kind, count)
        if loop is None:
            return
        is_epochs = kind == "epochs"
        outermost = is_epochs and self.loops.outermost() is loop
        chosen = whole = False
        try:
            while loop.index < count:
                if outermost and self.loops.replaying and self._restoration is not None:
                    self._restoration.put_back_epoch_start()
                yield loop.index
                if is_epochs:
                    self._end_body(loop, count, outermost=outermost)
                else:
                    self.note_next()
                    self.loops.advance(loop, loop.index + 1)
            chosen = whole = True
        except GeneratorExit:
            chosen = is_left_by_choice()
            if outermost and self._attempt.is_told_to_end() and is_left_at_end():
                self._end_body(loop, count, outermost=True)
                whole = loop.index >= count
            raise
        finally:
            self._end_loop(loop, chosen=chosen, whole=whole)

    def step(self, values: Values) -> None:
        """Take a step edge; or only count the step, if its place in the loops cannot be found again."""
        if self._is_child:
            self.refuse_children("step")
        session = self.session
        placed = self.loops.take_step(self._judge)
        if not self._looked_ahead:
            self._look_ahead(sys._getframe(2))
        if self._used_up and self.loops.under_way is None:
            self._warn_of_repetition()
        assert session is not None
        if placed:
            self._unplaced = 0
            self.position.refresh(self.loops)
            # Most scripts use variables of the loop's body ("loss") right after the loop. A resume from after the
            # last batch would not have them, so such an edge is saved only if nothing else can be.
            at_end = self.position.at_pass_end
            deferred = not at_end and self.loops.may_be_left
            session.holding = at_end or deferred
            session.step(values)
            if deferred:
                session.defer_edge()
            self._stepped = True
            self._loaders.step = session.steps_done
            if self._loaders.found and not self._warned_of_loader:
                self._warn_of_loader()
        else:
            self._warn_of_place()
            self.position.refresh(self.loops)
            session.step_without_place(values)
        session.holding = False
        self._plan.note_step(session)
        if 0 < self._max_steps <= session.steps_done:
            self._attempt.end_early()

    def log(self, values: Values) -> None:
        """Log more values of the last finished step."""
        if self.session is not None and not self.loops.replaying:
            self.session.log(values)

    def evaluated(self, measured: Values) -> bool:
        """Log what a validation measured; return whether that is the best so far."""
        session = self.session
        measured = {name.removeprefix("validation/"): value for name, value in to_numbers(measured).items()}
        if session is None:
            if not self.loops.replaying and self._restoration is None:
                self._early = measured
            return False
        if self.loops.replaying or not measured:
            return False
        if session.best.name is None:
            session.set_best(self._attempt.choose_best(next(iter(measured))))
        return session.evaluated(measured)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run a validation inside the block that may swap weights, if it puts them back."""
        if self.session is None or self.loops.replaying:
            yield
            return
        with self.session.evaluating():
            yield

    def is_kept(self, frame: FrameType | None) -> bool:
        """Tell whether a generator that the script made before its place was reached runs in `frame`."""
        return is_inside(frame, self._made_before)

    def send_to_place(self, loader: str) -> None:
        """Send the loader of that name to its saved position, before everything else is restored."""
        assert self._restoration is not None
        self.position.load_loader(loader, self._restoration.position)

    def note_next(self) -> None:
        """Before the next iteration, settle the edge; in the first ones, check that the step was the last thing."""
        if self.session is not None and not self.position.at_pass_end:
            self.session.settle_edge()
        if not self._looks or not self._stepped or self.session is None:
            return
        self._looks -= 1
        self._stepped = False
        if self._state.has_moved():
            self._looks = 0
            _log.warning(
                "After run.step(), this iteration drew random numbers, or changed a schedule or a learning rate. A "
                "resume from that step does not repeat this. Call run.step() last in the body of the loop."
            )

    def end_pass(self, loop: Loop, *, broken: bool) -> None:
        """End a pass over a loader; `broken` means that the script left it early on purpose."""
        known = self.loops.leave(loop)
        inner = self.loops.inner
        self._used_up = known and not broken and loop.trained and inner is not None and inner.kind == "steps"
        if known and broken and loop.trained and self.session is not None and not self.loops.replaying:
            if self._attempt.note_leaving():
                return
            self.loops.take_place()
            self.position.refresh(self.loops)
            self.session.end_pass()

    def refuse_children(self, name: str) -> None:
        """Raise `UsageError` in a process that the script has forked."""
        if self._is_child:
            raise UsageError(
                f"run.{name}() was called in a child process. Only the process that called relight.init() may write to "
                "its run."
            )

    def _note_fork(self) -> None:
        self._is_child = True

    def _look_ahead(self, caller: FrameType) -> None:
        """At the first step, refuse or name a batch that is fetched ahead: each step fetches that of the next."""
        self._looked_ahead = True
        outer = self.loops.outermost()
        if outer is not None and outer.kind == "batches" and not feeds_running_loop(outer.consumer, caller):
            raise UsageError(
                f"A batch of '{outer.name}' was fetched before the loop, and its iterator is still in use, so a resume "
                "would leave out a batch. Fetch each batch in the step that uses it: `batch = next(batches)` first in "
                "the body of `for step in run.steps(n)`."
            )
        inner = self.loops.inner
        if not self.loops.has_arrived and inner is not None and (where := find_fetched_ahead(caller, inner.consumer)):
            _log.warning(
                "%s: this step draws the batch of the next one, and a resume cannot restore it. Draw each batch in the "
                "step that uses it, first in the body of the loop, and none before the loop.", where,
            )  # fmt: skip

    def _warn_of_loader(self) -> None:
        """Warn of a loader that feeds the steps and is not Relight's."""
        self._warned_of_loader = True
        _log.warning(
            "%s: the batches of this DataLoader go on from one step to the next, but it was not passed to "
            "run.loader(), so after a resume they start over. Pass it: `loader = run.loader(loader)`.",
            self._loaders.found,
        )

    def _warn_of_repetition(self) -> None:
        """Warn that the steps go on although the loader's pass has ended and no new one has begun."""
        self._used_up = False
        _log.warning(
            "The loader's pass has ended, and the steps go on without a new one. If itertools.cycle repeats the "
            "batches, a resume has only those after its checkpoint. Use a generator with `while True: yield from "
            "loader`, which makes a new pass each time."
        )

    def _judge(self, outer: Consumer | None, passes: Sequence[Consumer | None]) -> tuple[Doubt | None, bool]:
        """Judge the loops around the script's call of `run.step`; warn of what no resume can continue."""
        caller = sys._getframe(4)  # run.step, step, take_step, and this
        doubt = judge_step(caller, passes=passes, outer=outer, is_loader=self._enumerating.is_loader)
        if doubt is not None and not self._warned:
            self._warned = True
            _log.warning(
                "%s: a resume cannot continue in the middle of this loop, so checkpoints are made only between "
                "epochs. %s", doubt, doubt.cure,
            )  # fmt: skip
        return doubt, may_leave_after_step(caller, passes[0])

    def _begin(self, kind: Literal["epochs", "steps"], count: int) -> Loop | None:
        """Begin a loop; begin the session with the first one or, in a resume, at the checkpoint's place."""
        self.refuse_children(kind)
        self._attempt.check_open()
        if count < 0:
            raise UsageError(f"run.{kind}({count}) is not possible. Pass the number of {kind}, 0 or more.")
        seeking = self.loops.replaying
        if seeking:
            self._enumerating.install()  # also in modules that were imported since
        loop = self.loops.enter(kind, consumer=find_consumer(sys._getframe(2)))
        if loop is None:
            return None
        loop_is_first = self.loops.outermost() is loop
        if loop_is_first:
            self._plan.begin(loop, count)
        if seeking and self.loops.replaying and loop_is_first and self._restoration is not None:
            self._restoration.load_epoch_start()
        if self.session is None and not self.loops.replaying:
            self._state.epoch_start.record()
            self.loops.take_place()
            self.position.refresh(self.loops)  # a stop may come before the first step
            self._start_session()
        if self.session is not None:
            self.session.in_loop = True
            self._plan.tell(self.session)
        return loop

    def _end_body(self, loop: Loop, count: int, *, outermost: bool) -> None:
        steps = loop.steps
        self._unplaced = 0
        self._attempt.resumed_at_pass_end = False
        self.loops.advance(loop, loop.index + 1)
        session = self.session
        assert session is not None
        if self._attempt.note_leaving(early=not steps):
            return
        if outermost:
            self._attempt.note_body()
            self._state.epoch_start.record(is_over=loop.index >= count)
            self._plan.note_epoch(session, steps=steps)
        if loop.index < count:
            self.loops.take_place()
            self.position.refresh(self.loops)
            session.end_body()

    def _end_loop(self, loop: Loop, *, chosen: bool, whole: bool = False) -> None:
        """End a loop. It is not `chosen` if an exception passes through it, which saves the last edge.

        A `whole` loop is stored as a loop at its end, not as one that has ended, because a branch may make it longer.
        """
        if self.is_leaving:
            return
        left = not self.loops.replaying and self._attempt.note_leaving(early=not whole)
        if whole and not left:
            self.loops.take_place()
        known = self.loops.leave(loop)
        if self.session is not None:
            self.session.in_loop = self.loops.depth > 0
        if not (known and chosen) or left or self.loops.depth or self.session is None or self.loops.replaying:
            return
        if not whole:
            self.loops.take_place()
        self.position.refresh(self.loops)
        if loop.kind == "epochs":
            self.position.epoch = loop.index
        self.session.end_loop()

    def _arrive(self, left: Sequence[Level]) -> None:
        """Complete a resume at its place: load the rest, start the loaders, and only then restore the generators."""
        self._enumerating.remove()
        self._made_before = list_new_generators()
        restoration = self._restoration
        assert restoration is not None
        place = restoration.place
        assert place is not None
        position = restoration.position
        self.position.load_state_dict(position)
        for level in left:
            if level.kind == "batches" and level.name in self.position.loaders:
                self.position.loaders[level.name].next_epoch()
        inner = self.loops.epochs
        if inner is not None:
            inner.steps = int(position["epoch_steps"])
        self.position.open()
        restoration.arrive(again=len(place.levels) > 1 or bool(place.done))
        restoration.restore_generators()
        outer = self.loops.outermost()
        if outer is not None and outer.kind == "epochs" and self.loops.depth == 1 and not place.done:
            self._state.epoch_start.record()
        else:
            restoration.load_epoch_start()
        self.loops.place = place
        self.position.refresh(self.loops)
        self._attempt.resumed_at_pass_end = self.position.at_pass_end
        self.position.epoch = int(position["epoch"]) if inner is None else inner.index
        seen = {name: self.position.loaders[name].take_seen() for name in self.loops.advanced}
        session = self._start_session()
        for name, digest in seen.items():  # these batches belong to the first step
            self.position.loaders[name].put_seen(digest)
        restoration.close()
        self._restoration = None
        self._plan.tell(session)
        _log.info("Resumed from step %d.", session.steps_done)

    def _start_session(self) -> ScriptSession:
        """Start the session: everything is tracked and, in a resume, restored."""
        restoration = self._restoration
        device = _find_device(self._state.modules)
        session = self._attempt.open_session(self._state, self.position, device=device, restoration=restoration)
        self._watch(session)
        session.in_loop = self.loops.depth > 0
        self.session = session
        weights_only = restoration is not None and restoration.weights_only
        if restoration is not None and weights_only:
            restoration.arrive(again=False)
        session.begin_script(restoration)
        self._attempt.note_start()
        if weights_only and restoration is not None:
            restoration.close()
            self._restoration = None
        if self._early:
            self.evaluated(self._early)
            self._early = {}
        return session

    def _watch(self, session: ScriptSession) -> None:
        for optimizer in self._state.take_unwatched():
            session.watch(optimizer)

    def _warn_of_place(self) -> None:
        self._unplaced += 1
        if self._warned or self._unplaced < 2:
            return
        self._warned = True
        _log.warning(
            "The batches of this epoch come from a source that Relight does not know, so a resume cannot find a step "
            "inside it. Checkpoints are made only between epochs. Use run.loader(), or run.steps() without a loader."
        )


def _find_device(modules: Sequence[nn.Module]) -> torch.device:
    for module in modules:
        for parameter in module.parameters():
            return parameter.device
    return torch.device("cpu")
