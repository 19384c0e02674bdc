"""How much a script still has to do, as far as its outermost loop and its loaders reveal it."""

from __future__ import annotations

from relight.training.progress_meter import Totals
from relight.training.script.loops import Loop, LoopStack
from relight.training.script.position import ScriptPosition
from relight.training.script.script_session import ScriptSession


class ScriptPlan:
    """Tells the session the number of steps, epochs and batches to come; 0 for unknown."""

    def __init__(self, loops: LoopStack, position: ScriptPosition) -> None:
        self._loops = loops
        self._position = position
        self._loop: Loop | None = None
        self._count = 0
        self._waits = False

    def begin(self, loop: Loop, count: int) -> None:
        """Note that an outermost loop of `count` iterations begins."""
        self._loop, self._count = loop, count
        self._waits = True

    def note_step(self, session: ScriptSession) -> None:
        """Note that a step is done; the first step of an epoch shows how many batches a step takes."""
        if not self._waits:
            return
        self._waits = False
        loop, under_way = self._loop, self._loops.under_way
        assert loop is not None
        if loop.kind == "epochs" and loop.steps == 1 and under_way is not None and not self._position.steps_per_epoch:
            loader = self._position.loaders[under_way.name]
            self._position.steps_per_epoch = -(-loader.batches // max(1, loader.batch))
        self.tell(session)

    def note_epoch(self, session: ScriptSession, *, steps: int) -> None:
        """Note that an epoch of `steps` steps is done."""
        if steps:
            self._position.steps_per_epoch = steps
            self.tell(session)

    def tell(self, session: ScriptSession | None) -> None:
        """Tell the session what is known so far."""
        loop, count = self._loop, self._count
        if session is None or loop is None:
            return
        before = session.steps_done - loop.steps  # in the finished iterations
        if loop.kind == "steps":
            session.plan(Totals(before + count - loop.index))
            return
        first = next(iter(self._position.loaders.values()), None)
        per_epoch = self._position.steps_per_epoch
        session.plan(
            Totals(
                steps=before + per_epoch * (count - loop.index) if per_epoch else 0,
                epochs=count,
                batches=0 if first is None else first.batches,
            )
        )
