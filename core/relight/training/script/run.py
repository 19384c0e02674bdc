"""A run as a training script sees it: what `relight.init` returns.

run = relight.init(config=vars(args))
loader = run.loader(train_set, batch_size=64, shuffle=True, num_workers=2)
run.track(model=model, optimizer=optimizer, scheduler=scheduler)      # restored here when this is a resume
for epoch in run.epochs(20):
    for batch in loader:
        ...
        run.step(loss=loss, accuracy=accuracy)                         # a step edge
    run.evaluated(accuracy=accuracy)                                   # what "best" means
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from relight.errors import UsageError
from relight.training.script.loop_leaving import is_left_by_choice
from relight.training.script.loops import Level, Loop, LoopStack
from relight.training.script.plan import ScriptPlan
from relight.training.script.position import ScriptPosition
from relight.training.script.restore import Restoration
from relight.training.script.script_attempt import ScriptAttempt
from relight.training.script.script_loader import ScriptLoader, choose_seed, make_loader
from relight.training.script.script_session import ScriptSession
from relight.training.script.state import ScriptState
from relight.training.state.rng import seed_everything
from relight.training.step_metrics import Values
from relight.training.stopping import TrainingStopped

_LOOKS = 100
"""Steps after which it is looked whether something moves behind `run.step`: it costs six microseconds."""
_log = logging.getLogger("relight")


class ScriptRun:
    """One run, in one attempt, seen from its script. Not for two threads at once."""

    def __init__(self, attempt: ScriptAttempt, config: MutableMapping[str, Any]) -> None:
        self.config = config
        """The config that was handed to `relight.init`, with what the launch has set in it."""
        self.loops = LoopStack(on_arrival=self._arrive)
        self._attempt = attempt
        self._pid = os.getpid()
        self._position = ScriptPosition()
        self._plan = ScriptPlan(self.loops, self._position)
        self._state = ScriptState(self._position)
        self._session: ScriptSession | None = None
        self._restoration: Restoration | None = None
        self._tracked: list[Any] = []
        self._early: dict[str, Any] = {}
        self._warned = False
        self._stepped = False
        self._looks = _LOOKS
        self._unplaced = 0
        self._max_steps = attempt.options.max_steps
        if attempt.seed is not None:
            seed_everything(attempt.seed)
        if attempt.start.from_sequence is not None:
            self._restoration = Restoration(attempt.layout, attempt.start, self._state)
            place = self._restoration.place
            if place is not None:
                self.loops.seek(place)

    @property
    def id(self) -> str:
        """The run's id."""
        return self._attempt.layout.run_id

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._attempt.layout.folder

    @property
    def resumed(self) -> bool:
        """Whether this attempt goes on from a checkpoint."""
        return self._attempt.start.from_sequence is not None

    @property
    def steps_done(self) -> int:
        """Step edges of the whole run so far; a resume counts on from its checkpoint once its loops have begun."""
        return 0 if self._session is None else self._session.steps_done

    @property
    def is_leaving(self) -> bool:
        """Whether the script is being ended, so that loops that close mean nothing."""
        return self._attempt.is_leaving

    def loader(self, data: Any, *, name: str | None = None, seed: int | None = None, **options: Any) -> ScriptLoader:
        """Make a loader over the data set `data`, with the options of PyTorch's `DataLoader`; or take one over.

        Its batches come in an order of our own, and each sample has random numbers of its own (Python's, NumPy's and
        torch's global generators are seeded for it), both from `seed`: else that of `relight.init`, else the one that
        the script has seeded torch with. So it is exact with any number of workers. Raises `TaskError` for data that
        cannot be resumed exactly.
        """
        self._refuse_children("loader")
        name = name or f"loader{len(self._position.loaders) + 1}"
        if any(loader.name == name for loader in self._position.loaders):
            raise UsageError(f"There is a loader called '{name}' already: give each a name of its own.")
        seed = seed if seed is not None else self._attempt.seed
        made = make_loader(self, name, data, options, seed=choose_seed(seed))
        self._position.add(made)
        return made

    def track(self, **things: Any) -> None:
        """Make things part of the training state, by name. In a resume each is restored here and now.

        Modules, optimizers, anything with `state_dict` and `load_state_dict`, generators (torch's, NumPy's, Python's),
        tensors, dictionaries of plain values. None is passed over. Raises `StateMismatch` with names when the
        checkpoint does not fit.
        """
        self._refuse_children("track")
        given = {name: thing for name, thing in things.items() if thing is not None}
        for name in sorted(given, key=lambda name: _rank(given[name])):
            thing = given[name]
            self._state.track(name, thing)
            self._tracked.append(thing)
            if self._session is not None:
                self._session.watch(thing)
            if self._restoration is not None:
                self._restoration.restore([name])

    def epochs(self, count: int) -> Iterator[int]:
        """Yield the epochs from 0 to `count` - 1; in a resume from the one that was under way.

        Around it belongs everything that is done once an epoch: batches, validation, the schedule's step. When the next
        epoch is asked for, the body is done: that is an edge, too.
        """
        loop = self._begin("epochs", count)
        if loop is None:
            return
        outermost = self.loops.outermost() is loop
        try:
            while loop.index < count:
                if outermost and self.loops.replaying:
                    self._state.epoch_start.put_back()
                yield loop.index
                self._end_body(loop, count, outermost=outermost)
        except GeneratorExit:
            self._end_loop(loop, chosen=is_left_by_choice())
            raise
        except BaseException:
            self._end_loop(loop, chosen=False)
            raise
        self._end_loop(loop, chosen=True, whole=True)

    def steps(self, count: int) -> Iterator[int]:
        """Yield the steps from 0 to `count` - 1, for a loop without epochs; in a resume from the one that comes next.

        One `run.step()` belongs into each, at the end.
        """
        loop = self._begin("steps", count)
        if loop is None:
            return
        try:
            while loop.index < count:
                yield loop.index
                self.note_next()
                self.loops.advance(loop, loop.index + 1)
        except GeneratorExit:
            self._end_loop(loop, chosen=is_left_by_choice())
            raise
        except BaseException:
            self._end_loop(loop, chosen=False)
            raise
        self._end_loop(loop, chosen=True, whole=True)

    def step(self, values: Values | None = None, /, **more: Any) -> None:
        """A step edge: the optimizer and all else that moves has moved. Call it last in the body of the loop.

        Logs numbers or 0-d tensors by name (those on a GPU without waiting for it), may cut a checkpoint, and ends the
        script here when the run is to stop.
        """
        if os.getpid() != self._pid:
            self._refuse_children("step")
        session = self._session
        placed = self.loops.take_step()
        assert session is not None
        try:
            if placed:
                self._unplaced = 0
                self._position.refresh(self.loops)
                # Most scripts use what the loop's body has set ("loss") right behind the loop. A resume from behind the
                # last batch would not have that, so such an edge is saved only where nothing else can be.
                session.holding = self._position.at_pass_end
                session.step(more if values is None else _merge(values, more))
                self._stepped = True
            else:
                self._warn_of_place()
                self._position.refresh(self.loops)
                session.step_without_place(more if values is None else _merge(values, more))
        except TrainingStopped as stopped:
            self._attempt.note_stop(stopped.stop)
            raise
        session.holding = False
        self._plan.note_step(session)
        if 0 < self._max_steps <= session.steps_done:
            self._attempt.end_early(session.steps_done)

    def log(self, values: Values | None = None, /, **more: Any) -> None:
        """Log more values of the last finished step."""
        self._refuse_children("log")
        if self._session is not None and not self.loops.replaying:
            self._session.log(more if values is None else _merge(values, more))

    def evaluated(self, values: Values | None = None, /, **more: Any) -> bool:
        """Say what a validation has measured on the current weights; returns whether that is the best so far.

        The first name of all says what `best` means, unless `relight.init(best=…)` does.
        """
        self._refuse_children("evaluated")
        measured = more if values is None else _merge(values, more)
        session = self._session
        if session is None:
            if not self.loops.replaying and self._restoration is None:
                self._early = dict(measured)
            return False
        if self.loops.replaying or not measured:
            return False
        if session.best.name is None:
            session.set_best(self._attempt.choose_best(next(iter(measured))))
        return session.evaluated(measured)

    def finish(self) -> None:
        """Save the final state and say that the run is done; else the end of the script does."""
        self._refuse_children("finish")
        self._attempt.finish()

    def send_to_place(self, loader: ScriptLoader) -> None:
        """Let `loader` go on from its saved position, ahead of all else that is restored."""
        assert self._restoration is not None
        self._position.load_loader(loader, self._restoration.position)

    def note_next(self) -> None:
        """The next iteration is asked for: look, in the first ones, whether the step was the last thing in this one."""
        if not self._looks or not self._stepped or self._session is None:
            return
        self._looks -= 1
        self._stepped = False
        if self._state.has_moved():
            self._looks = 0
            _log.warning(
                "After run.step() this iteration has drawn random numbers, or moved a schedule or a rate. A resume "
                "from that very step does not do it again: call run.step() last, or what you do there is lost."
            )

    def end_pass(self, loop: Loop, *, broken: bool) -> None:
        """A pass over a loader is over; `broken` when the script has left it before its end, by its own will."""
        known = self.loops.leave(loop)
        if known and broken and loop.trained and self._session is not None and not self.loops.replaying:
            self.loops.take_place()
            self._position.refresh(self.loops)
            self._session.end_pass()

    def _begin(self, kind: Any, count: int) -> Loop | None:
        """A loop of ours begins, and with the first one, or in a resume at the checkpoint's place, the session."""
        self._refuse_children(kind)
        self._attempt.check_open()
        if count < 0:
            raise UsageError(f"run.{kind}({count}) has no meaning: give it the number of {kind}, 0 or more.")
        seeking = self.loops.replaying
        loop = self.loops.enter(kind)
        if loop is None:
            return None
        loop_is_first = self.loops.outermost() is loop
        if loop_is_first:
            self._plan.begin(loop, count)
        if seeking and self.loops.replaying and loop_is_first and self._restoration is not None:
            self._restoration.load_epoch_start()
        if self._session is None and not self.loops.replaying:
            self._state.epoch_start.record()
            self.loops.take_place()
            self._start_session()
        if self._session is not None:
            self._session.in_loop = True
            self._plan.tell(self._session)
        return loop

    def _end_body(self, loop: Loop, count: int, *, outermost: bool) -> None:
        steps = loop.steps
        self._unplaced = 0
        self._attempt.resumed_at_pass_end = False
        self.loops.advance(loop, loop.index + 1)
        session = self._session
        assert session is not None
        if outermost:
            self._state.epoch_start.record()
            self._plan.note_epoch(session, steps=steps)
        if loop.index < count:
            self.loops.take_place()
            self._position.refresh(self.loops)
            try:
                session.end_body()
            except TrainingStopped as stopped:
                self._attempt.note_stop(stopped.stop)
                raise

    def _end_loop(self, loop: Loop, *, chosen: bool, whole: bool = False) -> None:
        """A loop of ours is over; not `chosen` when an exception passes through it, which saves the last edge.

        One that is `whole` is kept as a loop at its end, and not as one that has ended: a branch may make it longer.
        """
        if self.is_leaving:
            return
        if whole:
            self.loops.take_place()
        known = self.loops.leave(loop)
        if self._session is not None:
            self._session.in_loop = self.loops.depth > 0
        if not (known and chosen) or self.loops.depth or self._session is None or self.loops.replaying:
            return
        if not whole:
            self.loops.take_place()
        self._position.refresh(self.loops)
        if loop.kind == "epochs":
            self._position.epoch = loop.index
        self._session.end_loop()

    def _arrive(self, left: Sequence[Level]) -> None:
        """A resume has got to its place: load what is left, start the loaders, only then put the generators back."""
        restoration = self._restoration
        assert restoration is not None
        place = restoration.place
        assert place is not None
        position = restoration.position
        self._position.load_state_dict(position)
        for level in left:
            for loader in self._position.loaders:
                if loader.name == level.name and level.kind == "batches":
                    loader.inner.next_epoch()
        inner = self.loops.innermost("epochs")
        if inner is not None:
            inner.steps = int(position["epoch_steps"])
        self._position.open()
        restoration.arrive(again=len(place.levels) > 1 or bool(place.done))
        restoration.restore_generators()
        outer = self.loops.outermost()
        if outer is not None and outer.kind == "epochs" and self.loops.depth == 1 and not place.done:
            self._state.epoch_start.record()
        else:
            restoration.load_epoch_start()
        self.loops.place = place
        self._position.refresh(self.loops)
        self._attempt.resumed_at_pass_end = self._position.at_pass_end
        self._position.epoch = int(position["epoch"]) if inner is None else inner.index
        self._start_session()
        restoration.close()
        self._restoration = None
        self._plan.tell(self._session)
        _log.info("Resumed from step %d.", self.steps_done)

    def _start_session(self) -> None:
        """Begin the attempt proper: everything is tracked, and restored where there is something to restore."""
        restoration = self._restoration
        device = _find_device(self._state.modules)
        session = self._attempt.open_session(self._state, self._position, device=device, restoration=restoration)
        for thing in self._tracked:
            session.watch(thing)
        session.in_loop = self.loops.depth > 0
        self._session = session
        weights_only = restoration is not None and restoration.weights_only
        if restoration is not None and weights_only:
            restoration.arrive(again=False)
        try:
            session.begin_script(restoration)
        except TrainingStopped as stopped:
            self._attempt.note_stop(stopped.stop)
            raise
        self._attempt.note_start()
        if weights_only and restoration is not None:
            restoration.close()
            self._restoration = None
        if self._early:
            self.evaluated(self._early)
            self._early = {}

    def _warn_of_place(self) -> None:
        self._unplaced += 1
        if self._warned or self._unplaced < 2:
            return
        self._warned = True
        _log.warning(
            "The batches of this epoch come from nothing that Relight knows, so no step inside it can be found again: "
            "checkpoints are made at the edges of epochs only. Use run.loader(), or run.steps() for a loop without one."
        )

    def _refuse_children(self, name: str) -> None:
        if os.getpid() != self._pid:
            raise UsageError(
                f"run.{name}() was called in another process than relight.init(): only the training script itself may "
                "write into its run."
            )


def _rank(thing: Any) -> int:
    """Modules first: an optimizer's state goes by the names of their parameters, and a schedule moves its rates."""
    if isinstance(thing, nn.Module):
        return 0
    return 1 if isinstance(thing, Optimizer) else 2


def _find_device(modules: Sequence[nn.Module]) -> torch.device:
    for module in modules:
        for parameter in module.parameters():
            return parameter.device
    return torch.device("cpu")


def _merge(values: Values, more: Values) -> Values:
    """Both together; `values` must have names."""
    if not isinstance(values, Mapping):
        raise UsageError(
            f"Values need names, and this is a {type(values).__name__} by itself: write run.step(loss=loss), or give a "
            "dictionary."
        )
    return {**values, **more}
